//! Requests and answers, as the fake takes them without a socket.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

/// One request. `path` is what follows `/v1/`; a leading `/v1/` or `/` is cut off.
#[derive(Debug, Clone, Default)]
pub struct Request {
    pub method: String,
    pub path: String,
    /// Names in any case.
    pub headers: Vec<(String, String)>,
    pub query: BTreeMap<String, String>,
    pub body: Vec<u8>,
    /// The client's certificate (DER), where TLS asked for one.
    pub client_cert: Option<Vec<u8>>,
    /// From the test itself: neither counted, nor faulted, nor under a quota.
    pub admin: bool,
}

impl Request {
    pub fn new(method: &str, path: &str) -> Request {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let path = path.trim_start_matches('/');
        let path = path.strip_prefix("v1/").unwrap_or(path);
        Request {
            method: method.to_owned(),
            path: percent_decoded(path),
            query: query.split('&').filter(|p| !p.is_empty()).map(pair).collect(),
            ..Request::default()
        }
    }

    pub fn token(self, token: &str) -> Request {
        self.header("X-Vault-Token", token)
    }

    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: &Value) -> Request {
        self.body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
        self
    }

    /// The value of a header, whatever the case of its name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The token, from either of the headers that Vault takes.
    pub fn client_token(&self) -> Option<&str> {
        let bearer = || self.get("authorization").and_then(|v| v.strip_prefix("Bearer "));
        self.get("x-vault-token").or_else(bearer).filter(|t| !t.is_empty())
    }

    /// The body as an object; `None` where it is neither empty nor an object.
    pub fn object(&self) -> Option<Map<String, Value>> {
        if self.body.is_empty() {
            return Some(Map::new());
        }
        match serde_json::from_slice(&self.body).ok()? {
            Value::Object(map) => Some(map),
            Value::Null => Some(Map::new()),
            _ => None,
        }
    }
}

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap_or((text, ""));
    (percent_decoded(name), percent_decoded(value))
}

/// Percent-decoding as of RFC 3986; what is no valid escape stays.
pub fn percent_decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        match digits.and_then(|d| u8::from_str_radix(d, 16).ok()).filter(|_| byte == b'%') {
            Some(decoded) => {
                out.push(decoded);
                rest = &tail[2..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// How much of an answer arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fate {
    #[default]
    Whole,
    /// The connection breaks after this many bytes of the body.
    Cut(usize),
    /// The connection is closed with no answer at all.
    Closed,
}

/// One answer.
#[derive(Debug, Clone, Default)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub fate: Fate,
}

impl Response {
    pub fn json(status: u16, body: &Value) -> Response {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Response { status, headers, body: body.to_string().into_bytes(), fate: Fate::Whole }
    }

    pub fn empty(status: u16) -> Response {
        Response { status, ..Response::default() }
    }

    /// `{"errors": […]}`, as Vault fails.
    pub fn errors(status: u16, errors: &[&str]) -> Response {
        Response::json(status, &json!({ "errors": errors }))
    }

    /// The body as JSON; null where it is none.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The value at `pointer` (RFC 6901) in the body; null where there is none.
    pub fn at(&self, pointer: &str) -> Value {
        self.value().pointer(pointer).cloned().unwrap_or(Value::Null)
    }

    /// The text at `pointer`; fails the test where there is none.
    #[track_caller]
    pub fn text(&self, pointer: &str) -> String {
        match self.at(pointer) {
            Value::String(text) => text,
            other => panic!("{pointer} is {other}, not text: {} {}", self.status, self.value()),
        }
    }

    /// The whole number at `pointer`; fails the test where there is none.
    #[track_caller]
    pub fn number(&self, pointer: &str) -> i64 {
        self.at(pointer).as_i64().unwrap_or_else(|| panic!("{pointer} is no number: {} {}", self.status, self.value()))
    }

    /// The first error that Vault names.
    pub fn error(&self) -> String {
        self.at("/errors/0").as_str().unwrap_or_default().to_owned()
    }

    /// Fails the test unless the status is this.
    #[track_caller]
    pub fn is(self, status: u16) -> Response {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.body));
        self
    }

    /// Fails the test unless the status is 2xx.
    #[track_caller]
    pub fn ok(self) -> Response {
        assert!((200..300).contains(&self.status), "{} {}", self.status, String::from_utf8_lossy(&self.body));
        self
    }
}
