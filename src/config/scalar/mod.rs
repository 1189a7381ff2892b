//! The types of single values.

use serde_json::{Value, json};

use super::decode::{Decoder, Plain, choice, plain};
use super::model::{Format, OnStop, OnUnhealthy, Structure, SystemdVerb};
use super::tree::{Content, Node, Scalar};

mod address;
mod number;
mod system;
mod text;
mod value;

pub use address::{HostPort, Listen};
pub use number::{Mode, Span, Whole, duration};
pub use system::{Account, Owner, SignalName};
pub use text::{Command, FilePath, Tera, TeraValue, Text};
pub use value::{Json, OneOrMany, Pattern};

choice!(OnUnhealthy, "word" { "rollback" => Self::Rollback, "hold" => Self::Hold, "ignore" => Self::Ignore, });
choice!(OnStop, "word" { "keep" => Self::Keep, "revoke" => Self::Revoke, });
choice!(Structure, "word" { "fixed" => Self::Fixed, "free" => Self::Free, });
choice!(Format, "word" {
    "text" => Self::Text, "yaml" => Self::Yaml, "json" => Self::Json, "toml" => Self::Toml,
    "systemd-env" => Self::SystemdEnv, "docker-env" => Self::DockerEnv, "dotenv" => Self::Dotenv, "shell" => Self::Shell,
});
choice!(SystemdVerb, "word" {
    "reload" => Self::Reload, "restart" => Self::Restart, "try-restart" => Self::TryRestart,
    "reload-or-restart" => Self::ReloadOrRestart, "try-reload-or-restart" => Self::TryReloadOrRestart,
});

/// An HTTP method.
#[derive(Clone, Copy)]
pub struct Method(pub &'static str);
choice!(Method, "word" {
    "GET" => Self("GET"), "HEAD" => Self("HEAD"), "POST" => Self("POST"), "PUT" => Self("PUT"),
    "PATCH" => Self("PATCH"), "DELETE" => Self("DELETE"), "OPTIONS" => Self("OPTIONS"),
});

/// The schema of text with a pattern; `${…}` may stand for any part of it.
pub(super) fn text_schema(title: &str, pattern: &str) -> Value {
    json!({"type": "string", "title": title, "pattern": format!("^(?:{pattern})$|\\$\\{{")})
}

/// A scalar that is text, or the fault.
pub(super) fn text<'a>(node: &'a Node, expected: &str, d: &mut Decoder) -> Option<&'a Scalar> {
    let Content::Scalar(scalar) = &node.content else {
        d.wrong(node, expected, None);
        return None;
    };
    let expanded = scalar.written.is_some();
    match plain(scalar) {
        Plain::Text => {}
        _ if expanded => {}
        Plain::Null => {
            d.wrong(node, expected, "give it a value, or remove the key".to_owned());
            return None;
        }
        _ => {
            d.wrong(node, expected, "put it in quotes".to_owned());
            return None;
        }
    }
    no_nul(node, scalar, d)
}

pub(super) fn no_nul<'a>(node: &Node, scalar: &'a Scalar, d: &mut Decoder) -> Option<&'a Scalar> {
    if scalar.text.contains('\0') {
        let message = format!("{}: a NUL character cannot stand here", d.path());
        d.fault(node.place, message);
        return None;
    }
    Some(scalar)
}
