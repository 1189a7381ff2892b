//! Looking after the session: its token is renewed, replaced before its end, and followed where a file gives it.

use std::sync::Arc;
use std::time::Duration;

use vaultrs::api::token::requests::RenewTokenSelfRequest;

use super::given;
use super::judge;
use super::session::{Session, Token, certainly_dead};
use super::token::{Care, Grant, Life};
use crate::store::StoreError;

/// A token file is looked at this often.
const FOLLOW: Duration = Duration::from_secs(30);

impl Session {
    /// See [`crate::store::Store::tend`].
    pub async fn tend(&self) -> Result<Option<Duration>, StoreError> {
        let token = self.token().await?;
        let follows = given::follows(&self.auth);
        let bound = |rest: Option<Duration>| if follows { Some(rest.unwrap_or(FOLLOW).min(FOLLOW)) } else { rest };
        let _one = self.entering.lock().await;
        if follows && given::token(&self.server, &self.auth).await?.is_some_and(|value| value != token.value) {
            self.enter().await?;
            return Ok(bound(self.rest()));
        }
        let Some(life) = self.life_of(&token) else { return Ok(Some(Duration::ZERO)) };
        match life.care(self.now()) {
            Care::Rest(rest) => return Ok(bound(rest)),
            Care::Renew => {
                let renewed = self.renew(&token, &life).await?;
                if !renewed.renewable && renewed.end.is_some() && token.ours {
                    tracing::info!(store = %self.server.name, "the token nears its maximum; logging in anew");
                    self.enter().await?;
                }
            }
            Care::Replace if token.ours => {
                self.enter().await?;
            }
            Care::Replace => {
                let left = life.end.unwrap_or_default().saturating_sub(self.now());
                tracing::warn!(store = %self.server.name, ends_in = ?left, "the token that was given ends soon and cannot be renewed: give another");
                return Ok(bound(Some(left.max(Duration::from_secs(1)))));
            }
        }
        Ok(bound(self.rest()))
    }

    fn life_of(&self, token: &Arc<Token>) -> Option<Life> {
        let state = self.state();
        state.current.as_ref().filter(|(current, _)| Arc::ptr_eq(current, token)).map(|(_, life)| life.clone())
    }

    fn rest(&self) -> Option<Duration> {
        match self.state().current.as_ref()?.1.care(self.now()) {
            Care::Rest(rest) => rest,
            Care::Renew | Care::Replace => Some(Duration::ZERO),
        }
    }

    async fn renew(&self, token: &Arc<Token>, life: &Life) -> Result<Life, StoreError> {
        let increment = Some(format!("{}s", life.first.as_secs()));
        let call = self.call(&RenewTokenSelfRequest { increment }, &token.value)?;
        let answer = self.server.ask(&call, Some(&token.value)).await?;
        let renewed = match answer.status {
            200..=299 => life.renewed(&Grant::of_auth(&answer.json()["auth"]), self.now(), self.die()),
            403 if certainly_dead(&answer.errors()) => {
                self.forget(token, true);
                return Err(judge::refused(&self.server.name, &call, &answer));
            }
            // Denied or refused: it lives on, and will not be renewed.
            _ => {
                let why = judge::refused(&self.server.name, &call, &answer);
                tracing::warn!(store = %self.server.name, "the token will not be renewed: {why}");
                Life { renewable: false, ..life.clone() }
            }
        };
        self.moved();
        let mut state = self.state();
        if let Some((_, life)) = state.current.as_mut().filter(|(current, _)| Arc::ptr_eq(current, token)) {
            *life = renewed.clone();
        }
        state.owners.token(&token.owner, &renewed);
        Ok(renewed)
    }
}
