//! What policy must allow for what is read, and whether it does (`sys/capabilities-self`).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::call::Call;
use super::mount::Shape;
use super::reader::Reader;
use crate::store::StoreError;

/// By path: the capability, and what it is for.
pub(super) type Needs = BTreeMap<String, (&'static str, &'static str)>;

/// What the session itself needs. The policy `default`, which nearly every token has, allows it.
pub(super) fn of_session() -> Needs {
    let own = [
        ("auth/token/lookup-self", "read", "telling a dead token from a denial"),
        ("auth/token/renew-self", "update", "keeping the token alive"),
        ("auth/token/revoke-self", "update", "ending the session with on_stop: revoke"),
    ];
    own.into_iter().map(|(path, capability, why)| (path.to_owned(), (capability, why))).collect()
}

/// Adds what reading one secret, and holding its lease, needs.
pub(super) fn of_secret(shape: &Shape, path: &str, has_params: bool, needs: &mut Needs) {
    let mut need = |path: String, capability, why| {
        needs.insert(path, (capability, why));
    };
    match shape {
        Shape::Kv2 { mount, rest } => {
            need(format!("{mount}/data/{rest}"), "read", "reading the secret");
            need(format!("{mount}/metadata/{rest}"), "read", "polling without moving the secret");
        }
        Shape::Kv1 | Shape::Cubbyhole | Shape::Transit | Shape::Static | Shape::Guess { .. } => {
            need(path.to_owned(), "read", "reading the secret");
        }
        Shape::Certificate => need(path.to_owned(), "update", "making the certificate"),
        Shape::Other => {
            let capability = if has_params { "update" } else { "read" };
            need(path.to_owned(), capability, "reading the secret");
            need("sys/leases/renew".into(), "update", "keeping leases alive");
            need("sys/leases/lookup".into(), "update", "noticing a lease that was revoked");
            need("sys/leases/revoke".into(), "update", "ending leases that are no longer used");
        }
    }
}

/// The smallest policy, in HCL.
pub(super) fn policy(needs: &Needs) -> String {
    let mut hcl = String::new();
    for (path, (capability, why)) in needs {
        let path = path.replace('\\', "\\\\").replace('"', "\\\"");
        hcl.push_str(&format!("# {why}\npath \"{path}\" {{ capabilities = [\"{capability}\"] }}\n"));
    }
    hcl
}

/// What the answer does not grant.
fn lacking(needs: &Needs, data: &Value) -> Vec<String> {
    let grants = |path: &str, capability: &str| {
        let granted = data[path].as_array().into_iter().flatten().filter_map(Value::as_str);
        let mut granted = granted.filter(|granted| *granted == capability || *granted == "root").peekable();
        granted.peek().is_some()
    };
    let lacking = needs.iter().filter(|(path, (capability, _))| !grants(path, capability));
    lacking.map(|(path, (capability, why))| format!("{capability} on {path}: {why}")).collect()
}

impl Reader {
    /// Asks for all paths at once.
    pub(super) async fn lacking(&self, needs: &Needs) -> Result<Vec<String>, StoreError> {
        let paths: Vec<&String> = needs.keys().collect();
        let told = self.session.must(&Call::post("sys/capabilities-self", &json!({"paths": paths}))).await?;
        Ok(lacking(needs, &told.answer.json()["data"]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_names_each_path_once_and_nothing_more() {
        let mut needs = Needs::new();
        of_secret(&Shape::Kv2 { mount: "kv".into(), rest: "a\"b".into() }, "kv/a", false, &mut needs);
        of_secret(&Shape::Certificate, "pki/issue/web", true, &mut needs);
        of_secret(&Shape::Other, "db/creds/app", false, &mut needs);
        of_secret(&Shape::Other, "db/creds/app", false, &mut needs);
        let hcl = policy(&needs);
        let paths: Vec<&str> = hcl.lines().filter(|line| line.starts_with("path")).collect();
        assert_eq!(paths.len(), 7, "{hcl}");
        assert_eq!(paths[0], r#"path "db/creds/app" { capabilities = ["read"] }"#);
        assert_eq!(paths[1], r#"path "kv/data/a\"b" { capabilities = ["read"] }"#);
        assert_eq!(paths[3], r#"path "pki/issue/web" { capabilities = ["update"] }"#);
    }

    #[test]
    fn what_is_not_granted_is_lacking() {
        let needs = of_session();
        let granted = json!({"auth/token/lookup-self": ["read"], "auth/token/renew-self": ["root"], "auth/token/revoke-self": ["deny"]});
        let lacking = lacking(&needs, &granted);
        assert_eq!(lacking, ["update on auth/token/revoke-self: ending the session with on_stop: revoke"]);
    }
}
