//! Text, template text, commands, paths.

use serde_json::{Value, json};

use super::{no_nul, text};
use crate::config::decode::{Decoder, Plain, Shape, plain};
use crate::config::fault::shown;
use crate::config::tree::{Content, Node, Scalar};

/// Text; and, where it was expanded, as it is written.
pub struct Text(pub String, Option<String>);

impl Text {
    /// As a message may show it.
    pub fn shown(&self) -> String {
        format!("'{}'", shown(self.1.as_deref().unwrap_or(&self.0)))
    }
}

impl Shape for Text {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        text(node, "text", d).map(|scalar| Self(scalar.text.clone(), scalar.written.clone()))
    }

    fn schema() -> Value {
        json!({"type": "string", "title": "text"})
    }
}

/// Tera text. What `${VAR}` stood for may not bring template syntax in.
pub struct Tera(pub String);

impl Shape for Tera {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let scalar = text(node, "text", d)?;
        template(node, scalar, d).map(Self)
    }

    fn schema() -> Value {
        json!({"type": "string", "title": "template text"})
    }
}

fn template(node: &Node, scalar: &Scalar, d: &mut Decoder) -> Option<String> {
    if let Some(name) = &scalar.template_syntax {
        let message = format!("{}: the value of ${{{name}}} holds template syntax ('{{{{', '{{%' or '{{#')", d.path());
        d.fault_hint(node.place, message, "use env in the template (pass_env) for such a value".to_owned());
        return None;
    }
    Some(scalar.text.clone())
}

/// Tera text, or a number or truth value, which counts as it is written.
pub struct TeraValue(pub String);

impl Shape for TeraValue {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let scalar = literal(node, d)?;
        template(node, scalar, d).map(Self)
    }

    fn schema() -> Value {
        json!({"type": ["string", "number", "boolean"], "title": "template text"})
    }
}

fn literal<'a>(node: &'a Node, d: &mut Decoder) -> Option<&'a Scalar> {
    match &node.content {
        Content::Scalar(scalar) if plain(scalar) != Plain::Null || scalar.written.is_some() => no_nul(node, scalar, d),
        Content::Scalar(_) => {
            d.wrong(node, "text", "write '' for empty text".to_owned());
            None
        }
        _ => {
            d.wrong(node, "text", None);
            None
        }
    }
}

/// A program and its arguments; numbers count as they are written.
pub struct Command(pub Vec<String>);

impl Shape for Command {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let Content::List(items) = &node.content else {
            let hint = "write [program, argument]; for a shell, [sh, -c, 'text']";
            d.wrong(node, "a list of program and arguments", hint.to_owned());
            return None;
        };
        let words: Vec<_> = items.iter().map(|item| (!broken(item)).then(|| literal(item, d)).flatten()).collect();
        let words: Option<Vec<String>> = words.into_iter().map(|word| Some(word?.text.clone())).collect();
        let words = words?;
        if words.first().is_none_or(String::is_empty) {
            let message = format!("{}: names no program", d.path());
            d.fault(node.place, message);
            return None;
        }
        Some(Self(words))
    }

    fn schema() -> Value {
        json!({"type": "array", "title": "command", "minItems": 1, "items": {"type": ["string", "number", "boolean"]}})
    }
}

fn broken(node: &Node) -> bool {
    matches!(node.content, Content::Broken)
}

/// A path as written; relative ones count from the config's folder. Empty only as a stand-in after a fault.
pub struct FilePath(pub String);

impl Shape for FilePath {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let scalar = text(node, "a path", d)?;
        if scalar.text.is_empty() {
            let message = format!("{}: a path cannot be empty", d.path());
            d.fault(node.place, message);
            return None;
        }
        if scalar.text == "~" || scalar.text.starts_with("~/") {
            let message = format!("{}: '~' is not expanded in paths", d.path());
            d.fault_hint(node.place, message, "write ${HOME}".to_owned());
            return None;
        }
        Some(Self(scalar.text.clone()))
    }

    fn schema() -> Value {
        json!({"type": "string", "title": "path", "minLength": 1})
    }

    fn fallback() -> Option<Self> {
        Some(Self(String::new()))
    }
}
