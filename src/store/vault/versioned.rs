//! Reading KV version 2: data, the newest version by its metadata, and versions before.

use std::sync::PoisonError;
use std::time::Duration;

use serde_json::Value;

use super::call::{Answer, Body, Call};
use super::judge;
use super::kv2::{self, Data, Newest, Seen};
use super::reader::{Params, Reader};
use crate::secret::Reading;
use crate::store::{StoreError, StoreErrorKind};

/// How long a denial of a mount's metadata is remembered.
const DENIED_FOR: Duration = Duration::from_secs(3600);
/// How many versions before are looked at for one that is still there.
const BEFORE: u64 = 5;

/// What metadata says.
enum Look {
    Newest(Newest),
    /// Nothing to be had: policy denies it, or it makes no sense.
    Unknown,
}

impl Reader {
    pub(super) async fn kv2_read(
        &self,
        mount: &str,
        rest: &str,
        path: &str,
        params: &Params,
    ) -> Result<Reading, StoreError> {
        let mut call = Call::get(format!("{mount}/data/{rest}"));
        let pinned = params.get("version").and_then(super::json::number);
        if params.keys().any(|name| name != "version") || (!params.is_empty() && pinned.is_none()) {
            let text = "KV takes no params but `version`, a number; remove them";
            return Err(self.error(path, StoreErrorKind::Missing, text));
        }
        if let Some(version) = pinned {
            call = call.query("version", version.to_string());
        }
        let told = self.session.ask(&call).await?;
        match pinned {
            Some(_) => self.kv2_data(&told.answer, &call, path).and_then(|found| self.there(found, path)),
            None => self.kv2_reading(&told.answer, mount, rest, path).await,
        }
    }

    /// The newest version in an answer, if it is believed.
    pub(super) async fn kv2_reading(
        &self,
        answer: &Answer,
        mount: &str,
        rest: &str,
        path: &str,
    ) -> Result<Reading, StoreError> {
        let call = Call::get(format!("{mount}/data/{rest}"));
        let found = self.kv2_data(answer, &call, path)?;
        let reading = self.there(found, path)?;
        if self.believes(path, version_of(&reading), &reading) {
            return Ok(reading);
        }
        let text = format!(
            "a node that lags behind answered with version {}, and a newer one was seen; it is asked again",
            reading.version
        );
        tracing::debug!(store = %self.session.server.name, path, "{text}");
        let error = self.error(path, StoreErrorKind::Unavailable, text);
        Err(error.later(Duration::from_secs(1)))
    }

    fn believes(&self, path: &str, version: u64, reading: &Reading) -> bool {
        let now = self.now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match seen.get_mut(path) {
            Some(seen) => seen.believes(version, reading.created_at, now),
            None => {
                seen.insert(path.to_owned(), Seen::new(version, reading.created_at));
                true
            }
        }
    }

    fn kv2_data(&self, answer: &Answer, call: &Call, path: &str) -> Result<Data, StoreError> {
        if let Body::Malformed(_) = answer.body {
            return Err(judge::refused(&self.session.server.name, call, answer));
        }
        if !answer.is_success() && answer.status != 404 {
            return Err(judge::refused(&self.session.server.name, call, answer));
        }
        kv2::data(answer.json(), self.wall()).ok_or_else(|| {
            let text = "the answer is not what KV version 2 answers; look whether the mount was changed";
            self.error(path, StoreErrorKind::Malformed, text)
        })
    }

    fn there(&self, found: Data, path: &str) -> Result<Reading, StoreError> {
        match found {
            Data::Here(reading) => Ok(*reading),
            Data::Removed(text) => Err(self.error(path, StoreErrorKind::Missing, text)),
            Data::Absent => {
                let hint = if path.contains("/data/") { " (paths are written without data/)" } else { "" };
                let text = format!("there is no such secret{hint}; write it, or mend the path");
                Err(self.error(path, StoreErrorKind::Missing, text))
            }
        }
    }

    /// None: `current` is still the newest, or the server that was asked lags behind.
    pub(super) async fn kv2_again(
        &self,
        mount: &str,
        rest: &str,
        path: &str,
        params: &Params,
        current: &Reading,
    ) -> Result<Option<Reading>, StoreError> {
        let have = version_of(current);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.entry(path.to_owned()).or_insert_with(|| Seen::new(have, current.created_at));
        }
        if !params.is_empty() {
            let reading = self.kv2_read(mount, rest, path, params).await?;
            return Ok((reading.version != current.version).then_some(reading));
        }
        if let Look::Newest(newest) = self.look(mount, rest).await? {
            let same = newest.version == have && newest.created_at == current.created_at;
            if same && newest.custom == current.custom && !newest.gone {
                return Ok(None);
            }
            let lags = newest.version < have
                && newest.created_at.is_none_or(|at| current.created_at.is_some_and(|mine| at <= mine));
            let probe =
                Reading { created_at: newest.created_at, ..Reading::new(Default::default(), current.version.clone()) };
            if lags && !self.believes(path, newest.version, &probe) {
                tracing::debug!(store = %self.session.server.name, path, version = newest.version, have, "a node that lags behind answered");
                return Ok(None);
            }
        }
        let told = self.session.ask(&Call::get(format!("{mount}/data/{rest}"))).await?;
        let found = self.kv2_data(&told.answer, &Call::get(path), path)?;
        let reading = self.there(found, path)?;
        if !self.believes(path, version_of(&reading), &reading) {
            tracing::debug!(store = %self.session.server.name, path, version = %reading.version, have, "a node that lags behind answered");
            return Ok(None);
        }
        let same = reading.version == current.version
            && reading.created_at == current.created_at
            && reading.custom == current.custom
            && reading.expires_at == current.expires_at;
        Ok((!same).then_some(reading))
    }

    async fn look(&self, mount: &str, rest: &str) -> Result<Look, StoreError> {
        let now = self.now();
        let denied = self.no_metadata.lock().unwrap_or_else(PoisonError::into_inner).get(mount).copied();
        if denied.is_some_and(|at| now.saturating_sub(at) < DENIED_FOR) {
            return Ok(Look::Unknown);
        }
        match self.session.ask(&Call::get(format!("{mount}/metadata/{rest}"))).await {
            Ok(told) if told.answer.is_success() => {
                let newest = kv2::newest(&told.answer.json()["data"], self.wall());
                Ok(newest.map_or(Look::Unknown, Look::Newest))
            }
            Ok(_) => Ok(Look::Unknown),
            Err(error) if error.kind == StoreErrorKind::Denied => {
                tracing::debug!(
                    store = %self.session.server.name, mount,
                    "policy denies metadata: the data itself is read at each poll; allow read on {mount}/metadata/*"
                );
                self.no_metadata.lock().unwrap_or_else(PoisonError::into_inner).insert(mount.to_owned(), now);
                Ok(Look::Unknown)
            }
            Err(error) => Err(error),
        }
    }

    /// The version before, skipping those that are gone.
    pub(super) async fn kv2_previous(
        &self,
        mount: &str,
        rest: &str,
        path: &str,
        current: &Reading,
    ) -> Result<Option<Reading>, StoreError> {
        let have = version_of(current);
        for version in (1..have).rev().take(usize::try_from(BEFORE).unwrap_or(1)) {
            let call = Call::get(format!("{mount}/data/{rest}")).query("version", version.to_string());
            let told = self.session.ask(&call).await?;
            match self.kv2_data(&told.answer, &call, path)? {
                Data::Here(reading) => return Ok(Some(*reading)),
                Data::Removed(_) => {}
                Data::Absent => return Ok(None),
            }
        }
        Ok(None)
    }
}

fn version_of(reading: &Reading) -> u64 {
    super::json::number(&Value::from(reading.version.0.as_str())).and_then(|n| u64::try_from(n).ok()).unwrap_or(0)
}
