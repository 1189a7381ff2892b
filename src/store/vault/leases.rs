//! Leases: `sys/leases/{renew,lookup,revoke}` (<https://openbao.org/api-docs/system/leases/>). An id is in a request's body,
//! never in a path or a log.

use std::time::Duration;

use serde_json::json;

use super::answers::FOREVER;
use super::call::{Answer, Call};
use super::judge;
use super::reader::Reader;
use crate::secret::Lease;
use crate::store::{StoreError, StoreErrorKind};

impl Reader {
    fn capped(&self, lease: &Lease, seconds: Option<u64>, renewable: Option<bool>) -> Lease {
        // Nothing granted is no end for what never had one, and the end for what had.
        let granted = match seconds {
            Some(0) | None if lease.duration >= FOREVER => FOREVER,
            None => FOREVER,
            Some(seconds) => Duration::from_secs(seconds),
        };
        let duration = self.session.owners(|owners, now| owners.capped(&lease.id, granted, now));
        Lease { id: lease.id.clone(), duration, renewable: renewable.unwrap_or(lease.renewable) }
    }

    /// Asks for as much as was granted at first.
    pub(super) async fn renew(&self, lease: &Lease) -> Result<Lease, StoreError> {
        let increment = self.session.owners(|owners, _| owners.granted(&lease.id)).unwrap_or(lease.duration);
        let body = json!({"lease_id": lease.id, "increment": increment.as_secs()});
        let call = Call::post("sys/leases/renew", &body);
        let told = self.session.ask(&call).await?;
        let json = told.answer.json();
        if told.answer.is_success() && json["lease_id"].is_string() {
            return Ok(self.capped(lease, json["lease_duration"].as_u64(), json["renewable"].as_bool()));
        }
        if told.answer.is_success() {
            return Err(judge::refused(&self.session.server.name, &call, &told.answer));
        }
        if is_gone(&told.answer) {
            self.session.owners(|owners, _| owners.gone(&lease.id));
            return Err(self.error(
                &call.path,
                StoreErrorKind::Missing,
                "the lease is gone: it was revoked, or has ended",
            ));
        }
        // It is there, and the server will not: not renewable, or at its maximum. A 404 is of something between.
        let refused = judge::refused(&self.session.server.name, &call, &told.answer);
        let kind = if told.answer.status == 400 { StoreErrorKind::Denied } else { StoreErrorKind::Unavailable };
        Err(StoreError { kind, ..refused })
    }

    pub(super) async fn look_up(&self, lease: &Lease) -> Result<Option<Lease>, StoreError> {
        let call = Call::post("sys/leases/lookup", &json!({"lease_id": lease.id}));
        let told = self.session.ask(&call).await?;
        let data = &told.answer.json()["data"];
        if told.answer.is_success() && data.is_object() {
            let ttl = if data["expire_time"].is_null() { None } else { data["ttl"].as_u64() };
            return match (data["expire_time"].is_null(), ttl) {
                (false, Some(0)) => Ok(None),
                _ => Ok(Some(self.capped(lease, ttl, data["renewable"].as_bool()))),
            };
        }
        if told.answer.is_success() {
            return Err(judge::refused(&self.session.server.name, &call, &told.answer));
        }
        if is_gone(&told.answer) {
            self.session.owners(|owners, _| owners.gone(&lease.id));
            return Ok(None);
        }
        let refused = judge::refused(&self.session.server.name, &call, &told.answer);
        Err(StoreError { kind: StoreErrorKind::Unavailable, ..refused })
    }

    pub(super) async fn revoke(&self, lease: &Lease) -> Result<(), StoreError> {
        let call = Call::post("sys/leases/revoke", &json!({"lease_id": lease.id}));
        let told = self.session.ask(&call).await?;
        match told.answer.is_success() || [400, 404].contains(&told.answer.status) {
            true => {
                self.session.owners(|owners, _| owners.gone(&lease.id));
                Ok(())
            }
            false => Err(judge::refused(&self.session.server.name, &call, &told.answer)),
        }
    }
}

/// The server says that it knows of no such lease. Nothing less counts: what is gone is minted anew.
fn is_gone(answer: &Answer) -> bool {
    let errors = answer.errors();
    let says =
        ["invalid lease", "lease not found", "lease is expired", "lease expired", "lease has expired", "no such lease"];
    [400, 404].contains(&answer.status) && says.iter().any(|text| errors.contains(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_that_is_gone_is_not_one_that_will_not_be_renewed() {
        let answer = |status: u16, error: &str| {
            let body = json!({"errors": [error]}).to_string().into_bytes();
            Answer::of(&http::Response::builder().status(status).body(body).unwrap_or_default())
        };
        assert!(is_gone(&answer(400, "lease not found")) && is_gone(&answer(400, "invalid lease")));
        assert!(!is_gone(&answer(404, "no handler for route")) && !is_gone(&answer(404, "")));
        assert!(!is_gone(&answer(400, "lease is not renewable")) && !is_gone(&answer(503, "invalid lease")));
    }
}
