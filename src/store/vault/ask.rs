//! A call with the session's token: a 403 is told apart, and a dead token costs one login and one repetition.

use http::Method;

use super::call::{Answer, Call};
use super::judge;
use super::session::Session;
use crate::store::{StoreError, StoreErrorKind};

/// An answer, and whose token it was given to.
pub(super) struct Told {
    pub answer: Answer,
    pub owner: String,
}

impl Session {
    /// What the server says to a call: 2xx, 400, 404 or 405.
    ///
    /// # Errors
    /// `Denied` names the policy that is missing.
    pub async fn ask(&self, call: &Call) -> Result<Told, StoreError> {
        let mut repeated = false;
        loop {
            let token = self.token().await?;
            let mut hiding = call.clone();
            hiding.secrets.push(token.value.clone());
            let asked = self.now();
            let answer = self.server.ask(&hiding, Some(&token.value)).await?;
            if answer.status != 403 {
                log_warnings(&self.server.name, &call.path, &answer);
                return Ok(Told { answer, owner: token.owner.clone() });
            }
            if self.lives(&token, repeated, asked).await? || repeated {
                return Err(self.denied(&hiding, &answer));
            }
            repeated = true;
        }
    }

    /// The same, where only success is an answer.
    pub async fn must(&self, call: &Call) -> Result<Told, StoreError> {
        let told = self.ask(call).await?;
        match told.answer.is_success() {
            true => Ok(told),
            false => Err(judge::refused(&self.server.name, call, &told.answer)),
        }
    }

    fn denied(&self, call: &Call, answer: &Answer) -> StoreError {
        let refused = judge::refused(&self.server.name, call, answer);
        let what = refused.message.rsplit_once("; ").map_or(refused.message.as_str(), |(what, _)| what);
        let capability = if call.method == Method::GET { "read" } else { "update" };
        let policy = format!("path \"{}\" {{ capabilities = [\"{capability}\"] }}", call.path);
        let message = format!("{what}; the token lives, its policies must have: {policy}");
        StoreError { kind: StoreErrorKind::Denied, message, retry_after: None }
    }
}

fn log_warnings(store: &str, path: &str, answer: &Answer) {
    for warning in answer.json()["warnings"].as_array().into_iter().flatten().filter_map(|text| text.as_str()) {
        tracing::debug!(store, path, warning, "the server warns");
    }
}
