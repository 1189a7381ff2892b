//! What an answer means, in an operator's words. Pure.

use super::call::{Answer, Body, Call};
use super::transport::Fault;
use crate::secret::SecretBytes;
use crate::store::{StoreError, StoreErrorKind};

/// What the server said to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It answered this request (also: no such thing, not like this).
    Answered,
    /// Denied by policy, or the token is dead: the status does not tell.
    Forbidden,
    /// Look elsewhere.
    Redirected,
    /// This request failed and may pass later; nothing is known of others.
    Failed,
    /// The server serves nobody now.
    Down,
    /// Asked too much.
    Throttled,
}

/// By status, and by text where one status means several things (<https://developer.hashicorp.com/vault/api-docs#http-status-codes>).
pub(super) fn meaning(answer: &Answer) -> Meaning {
    match answer.status {
        200..=299 | 400 | 404 | 405 => Meaning::Answered,
        301 | 302 | 303 | 307 | 308 => Meaning::Redirected,
        403 => Meaning::Forbidden,
        429 => Meaning::Throttled,
        472 | 473 | 502..=504 => Meaning::Down,
        500 if leaderless(answer) => Meaning::Down,
        _ => Meaning::Failed,
    }
}

fn leaderless(answer: &Answer) -> bool {
    let errors = answer.errors();
    ["local node not active", "Vault is sealed", "barrier"].iter().any(|text| errors.contains(text))
}

/// What happened and what to do, for an answer that is no success.
fn explain(answer: &Answer, secrets: &[SecretBytes]) -> (StoreErrorKind, String, &'static str) {
    use StoreErrorKind::{Denied, Malformed, Missing, Unavailable};
    // Before it is shortened: half a secret would not be found.
    let errors = redacted(answer.errors(), secrets);
    let said = |text: &str| if errors.is_empty() { text.to_owned() } else { format!("{text} ({})", tidy(&errors)) };
    let (kind, what, todo) = match answer.status {
        200..=299 => {
            let how = if let Body::Malformed(how) = answer.body { how } else { "nothing" };
            return (
                Malformed,
                format!("the answer is {how}"),
                "look whether this is a Vault server, and at proxies before it",
            );
        }
        400 => (Missing, said("the server refuses the request"), "mend the path or its params"),
        403 => (Denied, said("denied"), "let a policy of this token allow it"),
        404 => (Missing, said("there is nothing"), "mend the path, or write the secret"),
        405 => (Missing, said("this path cannot be read like this"), "mend the path, or give or remove its params"),
        412 => (Unavailable, said("this node does not yet know what another one does (412)"), "it is asked again"),
        429 => (Unavailable, said("asked too often (429)"), "it is asked again; raise the quota, or lower `limits`"),
        472 => (Unavailable, said("a disaster-recovery standby answered (472)"), "point address at the active cluster"),
        473 => (Unavailable, said("a performance standby answered (473)"), "point address at the active node"),
        503 if errors.to_lowercase().contains("sealed") || errors.is_empty() => {
            (Unavailable, said("it is sealed, or under maintenance (503)"), "unseal it: vault operator unseal")
        }
        502..=504 => (
            Unavailable,
            said(&format!("it cannot serve now ({})", answer.status)),
            "look at the server and its load balancer",
        ),
        500 if leaderless(answer) => {
            (Unavailable, said("it has no active node (500)"), "look at the cluster's leader and seal")
        }
        500..=599 => (Unavailable, said(&format!("it failed ({})", answer.status)), "look into the server's log"),
        status => (Malformed, said(&format!("an answer with status {status}")), "look whether this is a Vault server"),
    };
    (kind, what, todo)
}

/// The errors of a server as one line that is not too long. Vault writes `1 error occurred:\n\t* permission denied\n\n`.
fn tidy(errors: &str) -> String {
    let mut parts = errors.split(['\n', ';']).map(|part| part.trim().trim_start_matches("* ").trim());
    let mut line = String::new();
    for part in parts.by_ref().filter(|part| !part.is_empty() && !part.ends_with("occurred:")) {
        if !line.is_empty() {
            line.push_str("; ");
        }
        line.extend(part.chars().map(|c| if c.is_control() { ' ' } else { c }));
    }
    if line.chars().count() > 300 {
        line = line.chars().take(300).chain("…".chars()).collect();
    }
    line
}

/// `text` without anything that this request kept secret.
fn redacted(mut text: String, secrets: &[SecretBytes]) -> String {
    for secret in secrets.iter().filter_map(SecretBytes::expose_str).filter(|secret| secret.len() >= 4) {
        if text.contains(secret) {
            text = text.replace(secret, "***");
        }
    }
    text
}

/// The error of an answer: `store NAME, PATH: what; what to do`.
pub(super) fn refused(store: &str, call: &Call, answer: &Answer) -> StoreError {
    let (kind, what, todo) = explain(answer, &call.secrets);
    let message = redacted(format!("store {store}, {}: {what}; {todo}", call.path), &call.secrets);
    StoreError { kind, message, retry_after: answer.retry_after }
}

/// The error where nothing usable came back.
pub(super) fn failed(store: &str, call: &Call, fault: &Fault) -> StoreError {
    let kind = if fault.malformed { StoreErrorKind::Malformed } else { StoreErrorKind::Unavailable };
    let message = redacted(format!("store {store}, {}: {}; {}", call.path, fault.what, fault.todo), &call.secrets);
    StoreError { kind, message, retry_after: None }
}

/// Any other error about a path.
pub(super) fn error(store: &str, path: &str, kind: StoreErrorKind, text: impl std::fmt::Display) -> StoreError {
    StoreError { kind, message: format!("store {store}, {path}: {text}"), retry_after: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let response = http::Response::builder().status(status).body(body.as_bytes().to_vec());
        Answer::of(&response.unwrap_or_default())
    }

    #[test]
    fn every_status_has_its_meaning_and_its_words() {
        use StoreErrorKind::{Denied, Malformed, Missing, Unavailable};
        for (status, body, means, kind, says) in [
            (200, "", Meaning::Answered, Malformed, "the answer is nothing"),
            (200, "{", Meaning::Answered, Malformed, "ends too early"),
            (400, r#"{"errors":["unknown role: x"]}"#, Meaning::Answered, Missing, "unknown role: x"),
            (
                403,
                r#"{"errors":["1 error occurred:\n\t* permission denied\n\n"]}"#,
                Meaning::Forbidden,
                Denied,
                "(permission denied)",
            ),
            (404, r#"{"errors":[]}"#, Meaning::Answered, Missing, "there is nothing;"),
            (405, "", Meaning::Answered, Missing, "params"),
            (412, "", Meaning::Failed, Unavailable, "412"),
            (429, "", Meaning::Throttled, Unavailable, "quota"),
            (472, "", Meaning::Down, Unavailable, "disaster"),
            (473, "", Meaning::Down, Unavailable, "performance"),
            (500, r#"{"errors":["connection to database failed"]}"#, Meaning::Failed, Unavailable, "database"),
            (
                500,
                r#"{"errors":["local node not active but active cluster node not found"]}"#,
                Meaning::Down,
                Unavailable,
                "no active node",
            ),
            (502, "<html>", Meaning::Down, Unavailable, "load balancer"),
            (503, r#"{"errors":["Vault is sealed"]}"#, Meaning::Down, Unavailable, "unseal"),
            (418, "", Meaning::Failed, Malformed, "418"),
        ] {
            let answer = answer(status, body);
            assert_eq!(meaning(&answer), means, "{status}");
            let error = refused("v", &Call::get("kv/x"), &answer);
            assert_eq!(error.kind, kind, "{status}");
            assert!(error.message.starts_with("store v, kv/x: ") && error.message.contains(says), "{}", error.message);
        }
    }

    #[test]
    fn an_error_that_echoes_what_was_sent_does_not_tell_it() {
        let call = Call::get("auth/approle/login").hiding(&"the-secret-id".into());
        let answer = answer(400, r#"{"errors":["no such id the-secret-id\u0007"]}"#);
        let message = refused("v", &call, &answer).message;
        assert!(message.contains("no such id ***") && !message.contains('\u{7}'), "{message}");
        // AWS's refusals echo the whole request: what is cut off there is not half a secret.
        let long = format!(r#"{{"errors":["{}the-secret-id"]}}"#, "x".repeat(293));
        let message = refused("v", &call, &self::answer(400, &long)).message;
        assert!(message.contains("xxx") && !message.contains("the-"), "{message}");
    }
}
