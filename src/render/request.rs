//! HTTP requests (`health`, `verify`) whose url, header values, body and expected JSON texts are templates.

use std::sync::Arc;

use serde_json::Value as Json;

use super::engine::{Builder, TextId};
use super::error::{RenderError, RenderErrorKind as Kind};
use crate::config::model::{Confirm, HttpRequest};

/// A request and its compiled texts.
pub(super) struct Request {
    request: HttpRequest,
    url: TextId,
    headers: Vec<TextId>,
    body: Option<TextId>,
    json: Vec<Option<TextId>>,
    confirm: Option<Box<Request>>,
}

impl Request {
    /// Compiles a request; `label` says where in the config it stands.
    pub fn new(builder: &mut Builder<'_>, label: &str, request: &HttpRequest) -> Self {
        Self {
            url: builder.text(&format!("{label}.url"), &request.url),
            headers: request.headers.iter().map(|(n, v)| builder.text(&format!("{label}.headers.{n}"), v)).collect(),
            body: request.body.as_ref().map(|body| builder.text(&format!("{label}.body"), body)),
            json: request
                .json
                .iter()
                .map(|(pointer, value)| Some(builder.text(&format!("{label}.json.{pointer}"), value.as_str()?)))
                .collect(),
            confirm: request
                .confirm
                .as_ref()
                .map(|confirm| Box::new(Self::new(builder, &format!("{label}.confirm"), &confirm.request))),
            request: request.clone(),
        }
    }

    pub fn texts(&self) -> Vec<TextId> {
        let json = self.json.iter().flatten();
        let own = [self.url].into_iter().chain(self.headers.iter().copied()).chain(self.body).chain(json.copied());
        own.chain(self.confirm.iter().flat_map(|confirm| confirm.texts())).collect()
    }

    /// The request with its texts rendered.
    pub fn render(
        &self,
        mut text: impl FnMut(TextId) -> Result<String, RenderError>,
        label: impl Fn(TextId) -> Arc<str>,
    ) -> Result<HttpRequest, RenderError> {
        let mut out = self.render_one(&mut text, &label)?;
        if let (Some(confirm), Some(written)) = (&self.confirm, &self.request.confirm) {
            let request = confirm.render_one(&mut text, &label)?;
            out.confirm = Some(Box::new(Confirm { request, times: written.times }));
        }
        Ok(out)
    }

    fn render_one(
        &self,
        text: &mut dyn FnMut(TextId) -> Result<String, RenderError>,
        label: &dyn Fn(TextId) -> Arc<str>,
    ) -> Result<HttpRequest, RenderError> {
        let mut out = self.request.clone();
        out.url = text(self.url)?;
        if out.url.contains(|c: char| c.is_whitespace() || c.is_control()) {
            let message = "the rendered URL holds a blank or a control character: use `| urlencode`";
            return Err(RenderError::whole(Kind::Filter, &label(self.url), message));
        }
        for ((_, value), id) in out.headers.iter_mut().zip(&self.headers) {
            *value = text(*id)?;
            if value.contains(|c: char| c.is_control() && c != '\t') {
                let message = "the rendered header holds a line break or a control character";
                return Err(RenderError::whole(Kind::Filter, &label(*id), message));
            }
        }
        if let Some(id) = self.body {
            out.body = Some(text(id)?);
        }
        for ((_, value), id) in out.json.iter_mut().zip(&self.json) {
            if let Some(id) = id {
                *value = Json::String(text(*id)?);
            }
        }
        Ok(out)
    }
}
