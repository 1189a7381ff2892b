//! Accounts and signals.

use std::str::FromStr;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{text, text_schema};
use crate::config::decode::{Decoder, Plain, Shape, plain, written};
use crate::config::fault::{did_you_mean, near};
use crate::config::model::OnChange;
use crate::config::tree::{Content, Node, Scalar};

/// A user or group, by name or number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// By name.
    Name(String),
    /// By number.
    Id(u32),
}

/// An account, and how it is written.
pub struct Owner {
    /// The account.
    pub account: Account,
    /// As a message may show it.
    pub shown: String,
}

impl Shape for Owner {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        const EXPECTED: &str = "a name or a number";
        let Content::Scalar(scalar) = &node.content else {
            d.wrong(node, EXPECTED, None);
            return None;
        };
        let text = match plain(scalar) {
            Plain::Int => &scalar.text,
            _ => &text(node, EXPECTED, d)?.text,
        };
        // (uid_t)-1 means "leave as it is" to chown(2).
        let id = text.bytes().all(|b| b.is_ascii_digit()) && !text.is_empty();
        match (id, text.parse::<u32>()) {
            (true, Ok(id)) if id != u32::MAX => Some(Self { account: Account::Id(id), shown: written(scalar) }),
            (false, _) if !text.is_empty() && !text.contains([':', '\n', '/']) && !text.starts_with(['-', '+']) => {
                Some(Self { account: Account::Name(text.clone()), shown: written(scalar) })
            }
            _ => {
                let message = format!("{}: {} is neither a name nor a number of an account", d.path(), written(scalar));
                d.fault(node.place, message);
                None
            }
        }
    }

    fn schema() -> Value {
        json!({"title": "name or number", "type": ["string", "integer"]})
    }
}

/// A signal that a process can take: not KILL, not STOP.
pub struct SignalName(pub Signal);

impl Shape for SignalName {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        if let Content::Scalar(scalar) = &node.content
            && plain(scalar) == Plain::Int
        {
            d.wrong(node, "the name of a signal", "write the name, such as HUP".to_owned());
            return None;
        }
        let scalar = text(node, "the name of a signal such as HUP", d)?;
        signal(&scalar.text, node, scalar, d).map(Self)
    }

    fn schema() -> Value {
        text_schema("signal", "(SIG)?[A-Z0-9]+")
    }
}

fn signal(name: &str, node: &Node, scalar: &Scalar, d: &mut Decoder) -> Option<Signal> {
    let short = name.strip_prefix("SIG").unwrap_or(name);
    match Signal::from_str(&format!("SIG{short}")) {
        Ok(Signal::SIGKILL | Signal::SIGSTOP) => {
            let message = format!("{}: no process can take {} up", d.path(), written(scalar));
            d.fault_hint(node.place, message, "use a signal that it handles, such as HUP".to_owned());
            None
        }
        Ok(signal) => Some(signal),
        Err(_) => {
            let names: Vec<&str> = Signal::iterator().map(|s| s.as_str().trim_start_matches("SIG")).collect();
            let message = format!("{}: unknown signal {}", d.path(), written(scalar));
            let short = short.to_uppercase();
            let short = short.strip_prefix("SIG").unwrap_or(&short);
            let hint = did_you_mean(short, names.iter().copied());
            d.fault_hint(
                node.place,
                message,
                hint.or_else(|| Some("write a name such as HUP, TERM or USR1".to_owned())),
            );
            None
        }
    }
}

impl Shape for OnChange {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let scalar = text(node, "restart, 'signal NAME' or handover", d)?;
        match scalar.text.split_whitespace().collect::<Vec<_>>().as_slice() {
            ["restart"] => Some(Self::Restart),
            ["handover"] => Some(Self::Handover),
            ["signal", name] => signal(name, node, scalar, d).map(Self::Signal),
            _ => {
                let message = format!("{}: unknown value {}", d.path(), written(scalar));
                let hint = match near(&scalar.text, ["restart", "handover"]) {
                    Some(word) => format!("did you mean '{word}'?"),
                    None => "known: restart, signal NAME (as in 'signal HUP'), handover".to_owned(),
                };
                d.fault_hint(node.place, message, hint);
                None
            }
        }
    }

    fn schema() -> Value {
        text_schema("restart, signal NAME or handover", "restart|handover|signal +(SIG)?[A-Z0-9]+")
    }
}
