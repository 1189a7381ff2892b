//! What is mounted where, and so how a path is read. Pure.

use std::time::Duration;

use serde_json::Value;

/// A mount as `sys/internal/ui/mounts/PATH` tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// With a slash at its end.
    pub path: String,
    pub engine: Engine,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Engine {
    Kv1,
    Kv2,
    Pki,
    Transit,
    Cubbyhole,
    /// Anything that the paths and answers tell apart.
    Other,
    /// This token may not know.
    Hidden,
}

/// How a path is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// `MOUNT/data/REST` and `MOUNT/metadata/REST`.
    Kv2 {
        mount: String,
        rest: String,
    },
    /// Read as it is, as often as one likes.
    Kv1,
    Cubbyhole,
    Transit,
    /// An account whose password the server rotates.
    Static,
    /// POST makes a certificate.
    Certificate,
    /// What comes back tells: never read without need.
    Other,
    /// KV v2 with the first part as its mount, else anything.
    Guess {
        mount: String,
        rest: String,
    },
}

impl Mount {
    /// Of `data`. None where it makes no sense.
    pub fn of(data: &Value) -> Option<Self> {
        let path = data["path"].as_str().filter(|path| !path.is_empty())?;
        let engine = match data["type"].as_str()? {
            "kv" | "generic" if data["options"]["version"].as_str() == Some("2") => Engine::Kv2,
            "kv" | "generic" => Engine::Kv1,
            "pki" => Engine::Pki,
            "transit" => Engine::Transit,
            "cubbyhole" => Engine::Cubbyhole,
            _ => Engine::Other,
        };
        Some(Self { path: format!("{}/", path.trim_end_matches('/')), engine })
    }

    /// Where the server does not tell: the first part.
    pub fn hidden(path: &str) -> Self {
        let first = path.split('/').next().unwrap_or_default();
        Self { path: format!("{first}/"), engine: Engine::Hidden }
    }

    pub fn holds(&self, path: &str) -> bool {
        path.strip_prefix(&self.path).is_some_and(|rest| !rest.is_empty())
    }

    /// How `path` in this mount is read.
    pub fn shape(&self, path: &str, has_params: bool) -> Shape {
        let rest = path.strip_prefix(&self.path).unwrap_or_default().to_owned();
        let mount = self.path.trim_end_matches('/').to_owned();
        let first = rest.split('/').next().unwrap_or_default();
        let is_static = ["static-creds", "static-cred"].contains(&first);
        match self.engine {
            Engine::Kv1 => Shape::Kv1,
            Engine::Kv2 => Shape::Kv2 { mount, rest },
            Engine::Cubbyhole => Shape::Cubbyhole,
            Engine::Pki if makes_certificates(&rest) => Shape::Certificate,
            Engine::Transit if first == "keys" && !has_params => Shape::Transit,
            Engine::Pki | Engine::Transit => Shape::Other,
            Engine::Other | Engine::Hidden if is_static && !has_params => Shape::Static,
            Engine::Other => Shape::Other,
            Engine::Hidden if has_params && makes_certificates(&rest) => Shape::Certificate,
            Engine::Hidden if has_params || ["creds", "sts", "keys"].contains(&first) => Shape::Other,
            Engine::Hidden => Shape::Guess { mount, rest },
        }
    }
}

/// `issue/ROLE`, `sign/ROLE`, `sign-verbatim[/ROLE]`, and the same below `issuer/NAME/`.
fn makes_certificates(rest: &str) -> bool {
    let mut parts = rest.split('/');
    let first = match parts.next() {
        Some("issuer") => parts.nth(1),
        first => first,
    };
    matches!(first, Some("issue" | "sign" | "sign-verbatim"))
}

impl Shape {
    /// Whether equal reads may share one answer: those that make nothing.
    pub fn is_shared(&self) -> bool {
        matches!(self, Self::Kv2 { .. } | Self::Kv1 | Self::Cubbyhole | Self::Transit | Self::Static)
    }
}

/// How long a mount that the server would not tell of is taken for hidden.
pub(super) const HIDDEN_FOR: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn mounts_are_told_apart_also_where_they_lie_deep() {
        let kv2 = Mount::of(&json!({"path": "team/kv/", "type": "kv", "options": {"version": "2"}})).unwrap();
        assert!(kv2.holds("team/kv/a/b") && !kv2.holds("team/kv") && !kv2.holds("team/kvx/a"));
        assert_eq!(kv2.shape("team/kv/a/b", false), Shape::Kv2 { mount: "team/kv".into(), rest: "a/b".into() });
        let of = |kind: &str| Mount::of(&json!({"path": "m/", "type": kind, "options": null})).unwrap();
        assert_eq!(of("kv").shape("m/a", false), Shape::Kv1);
        assert_eq!(of("database").shape("m/static-creds/r", false), Shape::Static);
        assert_eq!(of("database").shape("m/creds/r", false), Shape::Other);
        assert_eq!(of("transit").shape("m/keys/k", false), Shape::Transit);
        assert_eq!(of("pki").shape("m/cert/ca", false), Shape::Other);
        for path in ["m/issue/r", "m/sign/r", "m/issuer/x/issue/r", "m/sign-verbatim"] {
            assert_eq!(of("pki").shape(path, true), Shape::Certificate, "{path}");
        }
        assert!(Mount::of(&json!({"type": "kv"})).is_none());
    }

    #[test]
    fn a_hidden_mount_is_guessed_but_nothing_is_minted_by_guessing() {
        let hidden = Mount::hidden("db/creds/r");
        assert_eq!(hidden.path, "db/");
        assert_eq!(hidden.shape("db/creds/r", false), Shape::Other);
        assert_eq!(hidden.shape("db/static-creds/r", false), Shape::Static);
        assert_eq!(Mount::hidden("kv/a").shape("kv/a", false), Shape::Guess { mount: "kv".into(), rest: "a".into() });
    }

    #[test]
    fn only_what_makes_nothing_is_shared() {
        assert!(Shape::Kv1.is_shared() && Shape::Transit.is_shared());
        assert!(!Shape::Other.is_shared() && !Shape::Certificate.is_shared());
    }
}
