//! One server as the store asks it: a call becomes a request, goes through the gate and over the wire, and comes back as an
//! answer or as an error in an operator's words.

use std::sync::Arc;

use http::{HeaderValue, Request};
use reqwest::Url;
use rustify::client::Client;

use super::call::{Answer, Call};
use super::judge::{self, Meaning};
use super::transport::Fault;
use crate::config::model::{Limits, StoreName};
use crate::secret::SecretBytes;
use crate::store::Senses;
use crate::store::gate::Gate;
use crate::store::{StoreError, StoreErrorKind};

/// See the module.
pub(super) struct Server {
    pub name: StoreName,
    pub senses: Senses,
    wire: Arc<dyn Client>,
    gate: Gate,
    namespace: Option<String>,
}

impl Server {
    pub fn new(
        name: StoreName,
        namespace: Option<String>,
        limits: Limits,
        wire: Arc<dyn Client>,
        senses: Senses,
    ) -> Self {
        Self { name, senses, wire, gate: Gate::new(limits), namespace }
    }

    /// Sends one call with this token, and answers what the server said to it: 2xx, 400, 403, 404 or 405.
    ///
    /// # Errors
    /// Everything else, and no answer at all.
    pub async fn ask(&self, call: &Call, token: Option<&SecretBytes>) -> Result<Answer, StoreError> {
        let url = self.url(call)?;
        let pass = self.gate.pass().await.map_err(|error| self.about(call, error))?;
        let mut outcome = self.send(call, token, &url).await;
        if let Ok(answer) = &outcome
            && judge::meaning(answer) == Meaning::Redirected
        {
            let to = self.redirect(call, &url, answer)?;
            outcome = self.send(call, token, &to).await;
        }
        let answer = match outcome {
            Ok(answer) => answer,
            Err(fault) => {
                let error = judge::failed(&self.name, call, &fault);
                if fault.malformed {
                    pass.reached()
                } else {
                    pass.down(&error, (self.senses.dice)())
                }
                return Err(error);
            }
        };
        let refused = || judge::refused(&self.name, call, &answer);
        match judge::meaning(&answer) {
            Meaning::Answered | Meaning::Forbidden => {
                pass.reached();
                Ok(answer)
            }
            Meaning::Redirected => {
                pass.reached();
                Err(self.error(
                    call,
                    StoreErrorKind::Malformed,
                    "it redirects again after a redirect; mend the address",
                ))
            }
            Meaning::Failed => {
                pass.reached();
                Err(refused())
            }
            Meaning::Throttled if answer.retry_after.is_some() => {
                let error = refused();
                pass.throttled(&error);
                Err(error)
            }
            // Without a word on how long, the circuit finds that out.
            Meaning::Down | Meaning::Throttled => {
                let error = refused();
                pass.down(&error, (self.senses.dice)());
                Err(error)
            }
        }
    }

    /// An error about a call.
    pub fn error(&self, call: &Call, kind: StoreErrorKind, text: impl std::fmt::Display) -> StoreError {
        judge::error(&self.name, &call.path, kind, text)
    }

    /// The gate refuses with the failure of another path: said of this one.
    fn about(&self, call: &Call, error: StoreError) -> StoreError {
        let text = error.message.split_once(": ").map_or(error.message.as_str(), |(_, text)| text);
        StoreError { message: format!("store {}, {}: {text}", self.name, call.path), ..error }
    }

    fn url(&self, call: &Call) -> Result<Url, StoreError> {
        let unusable = || self.error(call, StoreErrorKind::Missing, "the address and this path make no URL; mend them");
        let mut url = Url::parse(self.wire.base()).map_err(|_| unusable())?;
        url.path_segments_mut().map_err(|()| unusable())?.pop_if_empty().push("v1").extend(call.path.split('/'));
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        Ok(url)
    }

    async fn send(&self, call: &Call, token: Option<&SecretBytes>, url: &Url) -> Result<Answer, Fault> {
        let mut request =
            Request::builder().method(call.method.clone()).uri(url.as_str()).header("x-vault-request", "true");
        if let Some(namespace) = &self.namespace {
            request = request.header("x-vault-namespace", namespace);
        }
        if let Some(token) = token {
            let mut token = HeaderValue::from_bytes(token.expose()).map_err(|_| {
                Fault::new("the token holds what no token holds", "mend it: one line of letters and digits")
            })?;
            token.set_sensitive(true);
            request = request.header("x-vault-token", token);
        }
        let body = call.body.as_ref().map(|body| body.expose().to_vec()).unwrap_or_default();
        let request = request
            .body(body)
            .map_err(|_| Fault::new("the request cannot be written down", "mend namespace and path"))?;
        tracing::trace!(store = %self.name, method = %call.method, path = %call.path, "asking");
        let response = self.wire.send(request).await.map_err(|error| Fault::of(&error))?;
        tracing::trace!(store = %self.name, path = %call.path, status = response.status().as_u16(), "answered");
        Ok(Answer::of(&response))
    }

    /// Where a redirect leads, if it stays on the same server: the token goes nowhere else.
    fn redirect(&self, call: &Call, from: &Url, answer: &Answer) -> Result<Url, StoreError> {
        let to = answer.location.as_deref().and_then(|to| from.join(to).ok());
        let Some(to) = to else {
            return Err(self.error(call, StoreErrorKind::Malformed, "it redirects to nowhere; look at the server"));
        };
        if to.origin() == from.origin() {
            return Ok(to);
        }
        let host = to.origin().ascii_serialization();
        let why = match (from.scheme(), to.scheme()) {
            ("https", "http") => "the token would go there in the clear",
            _ => "the token would go to another host",
        };
        let text = format!(
            "it redirects to {host}, which is not followed, for {why}; set the store's address to the active node (or a load \
             balancer before it), or let standbys forward requests"
        );
        Err(self.error(call, StoreErrorKind::Unavailable, text))
    }
}
