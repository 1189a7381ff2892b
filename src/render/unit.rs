//! The things that are rendered each for itself: a file, a variable of the supervised process, a request.

use std::sync::Arc;

use super::context::View;
use super::engine::{Engine, Stop, TextId};
use super::error::{RenderError, RenderErrorKind as Kind};
use super::filters::format_name;
use super::quote;
use super::request::Request;
use super::resolve::Resolve;
use super::structure::{Skeleton, Unreadable};
use super::uses::{Needs, UsedBy};
use super::value::{holds_bytes, reveal};
use crate::config::model::{Format, HttpRequest, Structure};
use crate::secret::{SecretBytes, SecretName};

/// What is rendered, and how.
pub(super) enum Body {
    Template(TextId),
    Env(Vec<(String, TextId)>),
    Resolve(Resolve),
    Value(TextId),
    Request(Box<Request>),
}

/// One thing to render.
pub(super) struct Unit {
    pub by: UsedBy,
    /// For messages about the whole output.
    pub label: Arc<str>,
    pub body: Body,
    pub format: Format,
    pub structure: Structure,
    pub needs: Needs,
}

/// What became of it.
#[derive(Clone)]
pub(super) enum Output {
    Bytes(Arc<SecretBytes>),
    Text(SecretBytes),
    Request(HttpRequest),
}

impl Body {
    pub fn texts(&self) -> Vec<TextId> {
        match self {
            Self::Template(text) | Self::Value(text) => vec![*text],
            Self::Env(values) => values.iter().map(|(_, text)| *text).collect(),
            Self::Request(request) => request.texts(),
            Self::Resolve(_) => Vec::new(),
        }
    }
}

impl Unit {
    /// Renders it over a snapshot.
    pub fn render(&self, engine: &Engine, view: &View<'_>) -> Result<Output, RenderError> {
        match &self.body {
            Body::Template(text) => self.template(engine, view, *text).map(bytes),
            Body::Env(values) => self.env(engine, view, values).map(|text| bytes(text.into_bytes())),
            Body::Resolve(resolve) => {
                let fields = |name: &str| view.snapshot.secrets.get(&SecretName::new(name)).map(|r| &r.fields);
                resolve.render(fields).map(|text| bytes(text.into_bytes()))
            }
            Body::Value(text) => {
                let value = self.plain(engine, view, *text)?;
                Ok(Output::Text(SecretBytes::from(value)))
            }
            Body::Request(request) => {
                let context = view.context(&self.needs, self.format);
                let text = |id| self.only_text(engine, id, self.text(engine, view, id, &context)?);
                request.render(text, |id| engine.label(id)).map(Output::Request)
            }
        }
    }

    fn text(
        &self,
        engine: &Engine,
        view: &View<'_>,
        text: TextId,
        context: &tera::Context,
    ) -> Result<String, RenderError> {
        engine.render(text, context).map_err(|stop| match stop {
            Stop::Error(error) if error.kind == Kind::Nul => {
                RenderError { message: view.nul(&self.needs, &error.message), ..error }
            }
            Stop::Error(error) => error,
            Stop::Missing(number) => match engine.chain(number) {
                Some(chain) => view.missing(chain),
                None => RenderError::whole(Kind::MissingField, &engine.label(text), "a value is not defined"),
            },
        })
    }

    fn only_text(&self, engine: &Engine, id: TextId, text: String) -> Result<String, RenderError> {
        if holds_bytes(&text) {
            let message = "a value is bytes, not text: use `| b64encode`";
            return Err(RenderError::whole(Kind::NotText, &engine.label(id), message));
        }
        Ok(text)
    }

    fn plain(&self, engine: &Engine, view: &View<'_>, id: TextId) -> Result<String, RenderError> {
        let text = self.text(engine, view, id, &view.context(&self.needs, self.format))?;
        self.only_text(engine, id, text)
    }

    fn template(&self, engine: &Engine, view: &View<'_>, id: TextId) -> Result<Vec<u8>, RenderError> {
        let text = self.text(engine, view, id, &view.context(&self.needs, self.format))?;
        if self.format == Format::Text {
            return Ok(reveal(&text));
        }
        let text = self.only_text(engine, id, text)?;
        let found = Skeleton::of(self.format, &text);
        match self.structure {
            Structure::Free => {
                found.map_err(|at| self.unreadable(at, ""))?;
            }
            Structure::Fixed => self.fixed(engine, view, id, found)?,
        }
        Ok(text.into_bytes())
    }

    /// Compares the output's structure with that of the same template over placeholders.
    fn fixed(
        &self,
        engine: &Engine,
        view: &View<'_>,
        id: TextId,
        found: Result<Option<Skeleton>, Unreadable>,
    ) -> Result<(), RenderError> {
        let snapshot = view.placeholders(&self.needs);
        let harmless = View { snapshot: &snapshot, ..*view };
        let expected = self
            .text(engine, &harmless, id, &harmless.context(&self.needs, self.format))
            .map(|text| Skeleton::of(self.format, &text));
        let fail = |message: String| Err(RenderError::whole(Kind::Structure, &self.label, message));
        match (found, expected) {
            (Ok(found), Ok(Ok(expected))) => match (found, expected) {
                (Some(found), Some(expected)) => match expected.difference(&found) {
                    None => Ok(()),
                    Some(place) => fail(format!(
                        "a secret's value changes the structure of the output {place}: quote it (`| {}`), or allow it with `structure: free`",
                        self.quoting()
                    )),
                },
                _ => Ok(()),
            },
            (Err(at), Ok(Ok(_))) => {
                let why = format!("; with harmless values it is valid, so quote the secrets' values (`| {}`)", self.quoting());
                Err(self.unreadable(at, &why))
            }
            (Err(at), _) => Err(self.unreadable(at, "")),
            (Ok(_), Ok(Err(_))) => fail(
                "the template gives no valid output with harmless values in place of secrets, so its structure cannot be checked: allow it with `structure: free`".to_string(),
            ),
            (Ok(_), Err(error)) => fail(format!(
                "the template cannot be rendered with harmless values in place of secrets, so its structure cannot be checked ({error}): allow it with `structure: free`",
            )),
        }
    }

    fn quoting(&self) -> &'static str {
        match self.format {
            Format::Text => "json",
            Format::Yaml => "yaml",
            Format::Json => "json",
            Format::Toml => "toml",
            Format::SystemdEnv | Format::DockerEnv | Format::Dotenv => "env_quote",
            Format::Shell => "shell_quote",
        }
    }

    fn unreadable(&self, at: Unreadable, why: &str) -> RenderError {
        let name = format_name(self.format);
        let what = if at.duplicate { ": the same key twice," } else { "" };
        let place = match (at.line, at.column) {
            (0, _) => String::new(),
            (line, column) => format!(" at line {line}, column {column} of the output"),
        };
        RenderError::whole(Kind::Parse, &self.label, format!("the output is not valid {name}{what}{place}{why}"))
    }

    fn env(&self, engine: &Engine, view: &View<'_>, values: &[(String, TextId)]) -> Result<String, RenderError> {
        let context = view.context(&self.needs, self.format);
        let mut out = String::new();
        if self.format == Format::Json {
            out.push_str("{\n");
        }
        for (i, (name, id)) in values.iter().enumerate() {
            let value = self.only_text(engine, *id, self.text(engine, view, *id, &context)?)?;
            let line = env_entry(self.format, name, &value, i + 1 == values.len())
                .map_err(|why| RenderError::whole(Kind::Filter, &engine.label(*id), why))?;
            out.push_str(&line);
            out.push('\n');
        }
        if self.format == Format::Json {
            out.push_str("}\n");
        }
        match Skeleton::of(self.format, &out) {
            Ok(_) => Ok(out),
            Err(at) => Err(self.unreadable(at, "")),
        }
    }
}

fn bytes(bytes: Vec<u8>) -> Output {
    Output::Bytes(Arc::new(SecretBytes::new(bytes)))
}

fn env_entry(format: Format, name: &str, text: &str, last: bool) -> Result<String, quote::Refusal> {
    let value = tera::Value::from(text);
    Ok(match format {
        Format::Yaml => format!("{}: {}", quote::yaml(&name.into())?, quote::yaml(&value)?),
        Format::Json => {
            format!("  {}: {}{}", quote::json(&name.into())?, quote::json(&value)?, if last { "" } else { "," })
        }
        Format::Toml => format!("{} = {}", quote::toml(&name.into())?, quote::toml(&value)?),
        format => quote::env_line(format, name, text)?,
    })
}
