//! `health.type: http`, and a secret's `verify`: one request, and what must come back.
//!
//! Redirects are never followed, proxies of the environment are ignored, every attempt makes a connection of its own.
//! A reason names the method and the URL as they were WRITTEN in the config (so a template's value cannot be in it),
//! without query and user; it never quotes a header or a body.

use std::time::Duration;

use futures_util::future::BoxFuture;
use serde_json::Value;

use super::http_client::{Fault, Tls, send};
use super::{Attempt, Probe};
use crate::config::model::HttpRequest;
use crate::verdict::show;

/// How much of a body is read.
pub const BODY_LIMIT: usize = 1024 * 1024;

/// What one request showed about the credential that it carried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// As expected.
    Pass,
    /// The other side answered, and not as expected (or the rendered request cannot be sent at all): asking again with the
    /// same values is of no use.
    Refused(String),
    /// No answer, or one that says nothing about the credential (408, 425, 429, 5xx): fails for now.
    Unreachable(String),
}

/// One HTTP request, ready to be made any number of times. Reads no file and opens no connection before the first.
pub struct HttpProbe {
    request: HttpRequest,
    what: String,
    timeout: Duration,
    tls: Tls,
    /// What is asked once this has passed, and how often.
    confirm: Option<(Box<HttpProbe>, u32)>,
}

/// Asks once, bounded by the request's own timeout: a secret's `verify`. `written` is the request before rendering.
pub async fn ask(rendered: HttpRequest, written: &HttpRequest) -> Answer {
    let timeout = rendered.timeout;
    HttpProbe::new(rendered, written, timeout).ask().await
}

impl HttpProbe {
    /// A probe that makes `rendered`; `written` is the same request before its templates were rendered, for messages.
    pub fn new(rendered: HttpRequest, written: &HttpRequest, timeout: Duration) -> Self {
        let what = format!("{} {}", written.method, shown(&written.url));
        let confirm = rendered.confirm.as_ref().zip(written.confirm.as_ref());
        let confirm = confirm.map(|(rendered, written)| {
            (Box::new(Self::new(rendered.request.clone(), &written.request, timeout)), rendered.times)
        });
        Self { request: rendered, what, timeout, tls: Tls::default(), confirm }
    }

    /// Asks as often as `confirm` says; the first answer that is not as expected tells.
    async fn confirmed(&self) -> Attempt {
        let Some((confirm, times)) = &self.confirm else { return Attempt::Pass };
        for time in 1..=*times {
            if let Answer::Refused(reason) | Answer::Unreachable(reason) = confirm.ask().await {
                let text = "the new values are not confirmed";
                return Attempt::Fail(format!("{text} (answer {time} of {times}): {reason}"));
            }
        }
        Attempt::Pass
    }

    /// Asks once, bounded by the timeout.
    pub async fn ask(&self) -> Answer {
        let what = &self.what;
        match tokio::time::timeout(self.timeout, self.exchange()).await {
            Ok(Answer::Pass) => Answer::Pass,
            Ok(Answer::Refused(reason)) => Answer::Refused(format!("{what}: {reason}")),
            Ok(Answer::Unreachable(reason)) => Answer::Unreachable(format!("{what}: {reason}")),
            Err(_) => Answer::Unreachable(format!("{what}: no answer within {}", show(self.timeout))),
        }
    }

    async fn exchange(&self) -> Answer {
        let mut response = match send(&self.request, &self.tls).await {
            Ok(response) => response,
            Err(fault) => return fault.into(),
        };
        let status = response.status().as_u16();
        if let Some(reason) = unexpected_status(status, &self.request.status) {
            let for_now = matches!(status, 408 | 425 | 429 | 500..);
            return if for_now { Answer::Unreachable(reason) } else { Answer::Refused(reason) };
        }
        if self.request.body_contains.is_none() && self.request.json.is_empty() {
            return Answer::Pass; // the body says nothing then: it is not waited for
        }
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(_)) if body.len() >= BODY_LIMIT => break,
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Fault::of(&error).into(),
            }
        }
        judge_body(&body, &self.request).map_or(Answer::Pass, Answer::Refused)
    }
}

impl Probe for HttpProbe {
    fn attempt(&self) -> BoxFuture<'_, Attempt> {
        Box::pin(async {
            match self.ask().await.into() {
                Attempt::Pass => self.confirmed().await,
                failed => failed,
            }
        })
    }
}

impl From<Answer> for Attempt {
    fn from(answer: Answer) -> Self {
        match answer {
            Answer::Pass => Self::Pass,
            Answer::Refused(reason) | Answer::Unreachable(reason) => Self::Fail(reason),
        }
    }
}

impl From<Fault> for Answer {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Request(reason) => Self::Refused(reason),
            Fault::Unreachable(reason) => Self::Unreachable(reason),
        }
    }
}

/// A URL for messages: no query, no fragment, no user and password. Template expressions are left as they are.
fn shown(url: &str) -> String {
    let mut out = String::new();
    let mut depth = 0usize;
    for (at, c) in url.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            '?' | '#' if depth == 0 => break,
            '@' if depth == 0 => {
                // What stands between the scheme and the first @ of the authority is user and password.
                let authority = url.find("://").map(|i| i + 3).filter(|start| !has_slash(&url[*start..at]));
                if let Some(start) = authority {
                    out.truncate(start);
                    continue;
                }
            }
            _ => {}
        }
        if out.chars().count() == 200 {
            out.push('…');
            break;
        }
        out.push(if c.is_control() { '?' } else { c });
    }
    out
}

/// Whether a `/` stands outside of template expressions.
fn has_slash(text: &str) -> bool {
    let mut depth = 0usize;
    text.chars().any(|c| {
        match c {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == '/' && depth == 0
    })
}

fn unexpected_status(status: u16, expected: &[u16]) -> Option<String> {
    let expected = if expected.is_empty() { &[200][..] } else { expected };
    if expected.contains(&status) {
        return None;
    }
    let list = expected.iter().map(u16::to_string).collect::<Vec<_>>().join(", ");
    Some(format!("status {status}, expected {}{list}", if expected.len() > 1 { "one of " } else { "" }))
}

/// Why a body is not as expected, if it is not. Pure.
fn judge_body(body: &[u8], request: &HttpRequest) -> Option<String> {
    let cut = body.len() >= BODY_LIMIT;
    if let Some(text) = &request.body_contains
        && !contains(body, text.as_bytes())
    {
        let where_ = if cut { " in its first 1 MiB" } else { "" };
        return Some(format!("body does not contain the expected text{where_}"));
    }
    if request.json.is_empty() {
        return None;
    }
    let Ok(document) = serde_json::from_slice::<Value>(body) else {
        let reason = if cut { "body is larger than 1 MiB" } else { "body is not JSON" };
        return Some(reason.into());
    };
    request.json.iter().find_map(|(pointer, expected)| match document.pointer(pointer) {
        None => Some(format!("json {pointer}: missing")),
        Some(value) if same(value, expected) => None,
        Some(_) => Some(format!("json {pointer}: differs from the expected value")),
    })
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || haystack.windows(needle.len()).any(|window| window == needle)
}

/// Equal JSON values; numbers by value, so that `1` is `1.0`.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(l), Value::Number(r)) => l == r || l.as_f64() == r.as_f64(),
        _ => left == right,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_in_a_message_has_neither_user_nor_query() {
        for (url, expected) in [
            ("http://127.0.0.1:4000/health?key=hunter2#x", "http://127.0.0.1:4000/health"),
            ("https://bob:hunter2@example.org/a@b", "https://example.org/a@b"),
            ("https://bob:hun@ter2@example.org/", "https://example.org/"),
            ("https://{{ secrets.a.user }}:{{ secrets.a.b | f(x='/@?') }}@h/p?q={{ x }}", "https://h/p"),
            ("http://h/bot{{ secrets.tg.token }}/me", "http://h/bot{{ secrets.tg.token }}/me"),
            ("unix:/run/app.sock:/ready?x=1", "unix:/run/app.sock:/ready"),
        ] {
            assert_eq!(shown(url), expected);
        }
        assert!(shown(&"x".repeat(1000)).chars().count() <= 201);
    }

    #[test]
    fn numbers_are_equal_by_value_and_texts_are_not_numbers() {
        assert!(same(&serde_json::json!(1), &serde_json::json!(1.0)));
        assert!(!same(&serde_json::json!("1"), &serde_json::json!(1)));
    }
}
