//! One request to the server, and what came back, before anybody judges it.

use std::time::Duration;

use http::Method;
use rustify::endpoint::Endpoint;
use serde_json::Value;

use crate::secret::SecretBytes;

/// A request, without token and namespace.
#[derive(Clone)]
pub(super) struct Call {
    pub method: Method,
    /// Below `/v1/`, as an operator writes it: nothing is percent-encoded yet.
    pub path: String,
    pub query: Vec<(&'static str, String)>,
    /// JSON. A secret: it may hold a secret id.
    pub body: Option<SecretBytes>,
    /// What no error may echo.
    pub secrets: Vec<SecretBytes>,
}

impl Call {
    fn new(method: Method, path: impl Into<String>) -> Self {
        let (query, secrets) = (Vec::new(), Vec::new());
        Self { method, path: path.into(), query, body: None, secrets }
    }

    /// GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// POST, which the server takes for an update as it does PUT.
    pub fn post(path: impl Into<String>, body: &Value) -> Self {
        Self { body: Some(SecretBytes::from(body.to_string())), ..Self::new(Method::POST, path) }
    }

    /// A request of vaultrs. None where it cannot be written down.
    pub fn of(endpoint: &impl Endpoint) -> Option<Self> {
        let method: Method = endpoint.method().into();
        // Some of its paths begin with a tab or a slash.
        let path = endpoint.path().trim().trim_start_matches('/').to_owned();
        let body = endpoint.body().ok()?.filter(|_| method != Method::GET).map(SecretBytes::new);
        Some(Self { body, ..Self::new(method, path) })
    }

    pub fn query(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub fn hiding(mut self, secret: &SecretBytes) -> Self {
        self.secrets.push(secret.clone());
        self
    }
}

/// What came back.
pub(super) struct Answer {
    pub status: u16,
    pub retry_after: Option<Duration>,
    pub location: Option<String>,
    pub body: Body,
}

/// A body as far as it could be read.
pub(super) enum Body {
    Empty,
    Json(Value),
    /// Not JSON; how it is not.
    Malformed(&'static str),
}

impl Answer {
    /// The answer of a response as the wire gave it.
    pub fn of(response: &http::Response<Vec<u8>>) -> Self {
        let header = |name| response.headers().get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
        let body = match response.body().as_slice() {
            blank if blank.iter().all(u8::is_ascii_whitespace) => Body::Empty,
            text => match serde_json::from_slice(text) {
                Ok(value) => Body::Json(value),
                Err(error) if error.is_eof() => Body::Malformed("JSON that ends too early"),
                Err(_) => Body::Malformed("something that is not JSON"),
            },
        };
        Self {
            status: response.status().as_u16(),
            // A number of seconds (RFC 9110, 10.2.3); Vault sends no dates.
            retry_after: header("retry-after").and_then(|text| text.trim().parse().ok()).map(Duration::from_secs),
            location: header("location").map(str::to_owned),
            body,
        }
    }

    /// The JSON, or null.
    pub fn json(&self) -> &Value {
        static NOTHING: Value = Value::Null;
        match &self.body {
            Body::Json(value) => value,
            Body::Empty | Body::Malformed(_) => &NOTHING,
        }
    }

    /// 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// `errors`, joined, as the server wrote them.
    pub fn errors(&self) -> String {
        let errors = self.json()["errors"].as_array().map(Vec::as_slice).unwrap_or_default();
        errors.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_vaultrs_are_taken_without_the_blanks_in_their_paths() {
        let renew = Call::of(&vaultrs::api::token::requests::RenewTokenSelfRequest { increment: None });
        assert_eq!(renew.map(|call| (call.path, call.method)), Some(("auth/token/renew-self".into(), Method::POST)));
    }

    #[test]
    fn what_comes_back_is_taken_apart() {
        let response = |status: u16, body: &str| {
            let builder = http::Response::builder().status(status).header("retry-after", "7");
            Answer::of(&builder.body(body.as_bytes().to_vec()).unwrap_or_default())
        };
        let answer = response(429, r#"{"errors":["a","b"]}"#);
        assert_eq!(
            (answer.status, answer.retry_after, answer.errors().as_str()),
            (429, Some(Duration::from_secs(7)), "a; b")
        );
        assert!(matches!(response(200, "{\"a\":").body, Body::Malformed("JSON that ends too early")));
        assert!(matches!(response(200, "<html>").body, Body::Malformed(_)));
        assert!(matches!(response(204, "").body, Body::Empty));
    }
}
