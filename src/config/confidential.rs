//! Which values of a config may be credentials: what `${VAR}` brought into the places where credentials stand.

use std::rc::Rc;

use super::tree::{Content, Node, Scalar};
use crate::secret::SecretBytes;

/// Shorter values are no credentials, and would blind the logs (`8080`, `info`), except where only credentials stand.
const SHORTEST: usize = 8;

/// What AWS's chain finds credentials by, beside the keys themselves: the agent's own where a store or a login is AWS's.
const AWS_CHAIN: [&str; 4] = [
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
];

/// What a config holds that is not for every eye.
#[derive(Default)]
pub struct Confidential {
    /// Names of the variables expanded under a store's `auth`, except into the path of a file (`${HOME}/token`), and of
    /// those by which AWS's chain finds credentials, where it is asked: the agent's own. Sorted, each once.
    pub auth_variables: Vec<String>,
    /// Values that may be credentials, to be masked wherever they turn up: tokens of stores, and what variables brought
    /// into headers, bodies, environments, arguments, and the path or query of a URL.
    pub values: Vec<SecretBytes>,
}

/// What stands at a key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    /// Names, paths, numbers.
    Nothing,
    /// A credential of the agent, and nothing else.
    Credential,
    /// The name or role by which the agent logs in.
    Identity,
    /// A text that may have a credential in it.
    Text,
    /// The same, but scheme, host and port are none.
    Url,
}

pub(super) fn of(root: &Rc<Node>) -> Confidential {
    let mut found = Confidential::default();
    walk(root, &mut Vec::new(), &mut found);
    found.auth_variables.sort();
    found.auth_variables.dedup();
    found
}

fn walk<'a>(node: &'a Rc<Node>, path: &mut Vec<&'a str>, found: &mut Confidential) {
    match &node.content {
        Content::Map(entries) => {
            for entry in entries {
                path.push(&entry.key);
                walk(&entry.node, path, found);
                path.pop();
            }
        }
        Content::List(items) => {
            path.push("[]");
            items.iter().for_each(|item| walk(item, path, found));
            path.pop();
        }
        Content::Scalar(scalar) => {
            take(scalar, holds(path), found);
            if matches!(
                (path.as_slice(), &*scalar.text),
                (["stores", _, "type"], "aws-secrets-manager") | (["stores", _, "auth", "type"], "aws")
            ) {
                found.auth_variables.extend(AWS_CHAIN.map(str::to_owned));
            }
        }
        Content::Broken => {}
    }
}

fn take(scalar: &Scalar, holds: Holds, found: &mut Confidential) {
    let names = scalar.variables.iter().map(|variable| variable.name.clone());
    let shown = |variable: &&super::expand::Variable| match holds {
        Holds::Url => !variable.in_authority,
        _ => true,
    };
    match holds {
        Holds::Nothing => {}
        Holds::Credential => {
            found.auth_variables.extend(names);
            found.values.push(scalar.text.trim().into());
        }
        Holds::Identity => found.auth_variables.extend(names),
        Holds::Text | Holds::Url => {
            let values = scalar.variables.iter().filter(shown).map(|variable| &variable.value);
            found.values.extend(values.filter(|value| value.len() >= SHORTEST).cloned());
        }
    }
}

fn holds(path: &[&str]) -> Holds {
    match path {
        ["stores", _, "auth", key] => match *key {
            "token" | "header_value" => Holds::Credential,
            "type" | "mount" | "path" | "wrapped" | "region" => Holds::Nothing,
            key if key.ends_with("_file") => Holds::Nothing,
            _ => Holds::Identity,
        },
        ["secrets", _, "verify", "http", rest @ ..] | ["targets", _, "health", rest @ ..] => match rest.first() {
            Some(&"url" | &"path") => Holds::Url,
            Some(&"headers" | &"body" | &"body_contains" | &"json" | &"run") => Holds::Text,
            _ => Holds::Nothing,
        },
        ["secrets", _, "params" | "expect", ..] => Holds::Text,
        ["targets", _, "reload", "env" | "command" | "run", ..] => Holds::Text,
        ["targets", _, "files", "[]", "env" | "inline", ..] => Holds::Text,
        ["targets", _, "files", "[]", "check", "run" | "stdout", ..] => Holds::Text,
        _ => Holds::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        Some(match name {
            "PORT" => "8080".to_owned(),
            "HOST" => "gateway.example.org".to_owned(),
            "BASE" => "https://gateway.example.org".to_owned(),
            name => format!("value-of-{name}"),
        })
    }

    fn found(yaml: &str) -> (Vec<String>, Vec<String>) {
        let (root, _) = super::super::tree::read(yaml, &env);
        let found = of(&root.unwrap());
        let values = found.values.iter().map(|v| v.expose_str().unwrap().to_owned()).collect();
        (found.auth_variables, values)
    }

    #[test]
    fn what_awss_chain_finds_credentials_by_is_the_agents_own_where_it_is_asked() {
        let aws = found("stores: {a: {type: aws-secrets-manager}}").0;
        assert!(AWS_CHAIN.iter().all(|name| aws.iter().any(|found| found == name)), "{aws:?}");
        assert_eq!(found("stores: {a: {type: vault, auth: {type: aws}}}").0, aws);
        assert!(found("stores: {a: {type: vault, auth: {type: token}}, b: {type: file, path: aws}}").0.is_empty());
    }

    #[test]
    fn what_auth_names_is_the_agents_own_but_the_path_of_a_file_is_not() {
        let (names, values) = found(
            "stores:
  a: {type: vault, auth: {type: token, token: '${B_TOKEN}${A_TOKEN}'}}
  b: {type: vault, auth: {type: approle, role_id_file: '${HOME}/role'}}
  c: {type: vault, auth: {type: token_file, path: '${HOME}/token'}}
  d: {type: vault, auth: {type: userpass, username: '${VAULT_USER}', password_file: '/x'}}
  e: {type: vault, address: '${ADDRESS}', auth: {type: token, token: literal-token}}
",
        );
        assert_eq!(names, ["A_TOKEN", "B_TOKEN", "VAULT_USER"]);
        assert_eq!(values, ["value-of-B_TOKENvalue-of-A_TOKEN", "literal-token"]);
    }

    #[test]
    fn values_that_may_be_credentials_are_found_and_ports_and_hosts_are_not() {
        let (names, values) = found(
            "state_dir: '${STATE}'
secrets:
  s: {verify: {http: {url: '${BASE}/v1/${IN_PATH}?k=${IN_QUERY}', headers: {x: 'Bearer ${HEADER}'}, body: '${BODY}'}}}
targets:
  t:
    files:
      - {path: '${WHERE}', inline: '${INLINE} ${PORT}', check: {run: [x, '${ARGUMENT}']}}
      - {path: /y, env: {A: '${FILE_ENV}'}}
    reload: {type: exec, command: ['${PROGRAM}'], env: {A: '${ENV}'}}
    health: {type: http, url: 'http://${HOST}:${PORT}/', json: {/a: '${JSON}'}}
  u:
    health: {type: http, url: 'http://user:${PASSWORD}@host/'}
",
        );
        assert!(names.is_empty());
        let expected = [
            "IN_PATH", "IN_QUERY", "HEADER", "BODY", "INLINE", "ARGUMENT", "FILE_ENV", "PROGRAM", "ENV", "JSON",
            "PASSWORD",
        ];
        assert_eq!(values, expected.map(|name| format!("value-of-{name}")));
    }
}
