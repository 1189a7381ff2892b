//! AWS Secrets Manager.
//!
//! | file | what it does |
//! | --- | --- |
//! | `client`, `api`, `judge` | requests over the SDK, region after region; errors by code |
//! | `credentials`, `identity` | keys loaded beforehand, kept and masked; whose they are |
//! | `gather`, `reader`, `rotations` | reads that begin together, as few requests as the policy allows |
//! | `lineage`, `known`, `id` | which version is to be believed; what is known of a secret; its names |
//! | `value` | from a SecretString or SecretBinary to fields |
//! | `events`, `announcement` | changes announced on an SQS queue, and what they say |
//! | `access`, `policy`, `upkeep`, `saved` | what policy allows and needs; what watching costs; what the next start is to know |
//!
//! Nothing is repeated here but what expired credentials cost: retries are the caller's. The SDK's own are off.

mod access;
mod announcement;
mod api;
mod client;
mod credentials;
mod events;
mod gather;
mod id;
mod identity;
mod judge;
mod known;
mod lineage;
mod policy;
mod reader;
mod rotations;
mod saved;
mod upkeep;
mod value;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use self::api::{Got, Value};
use self::client::Client;
use self::events::Queue;
use self::gather::{Ask, Gathering};
use self::identity::identify;
use self::judge::Meaning;
use self::lineage::{CURRENT, PREVIOUS, labelled};
use self::reader::{Found, Outcome, Reader};
use crate::config::model::{AwsStore as Config, Locator, StoreName};
use crate::secret::{Again, Reading, SecretBytes, Version};
use crate::store::{Access, Changed, Senses, Store, StoreError, StoreErrorKind, Upkeep};

/// AWS Secrets Manager as a store. See the module's documentation.
pub struct AwsStore {
    reader: Arc<Reader>,
    gathering: Arc<Gathering<Outcome>>,
    queue: Option<Queue>,
    of: String,
}

impl AwsStore {
    /// The store that `config` describes. Opens, reads and asks nothing yet.
    pub fn new(name: StoreName, config: &Config, senses: Senses) -> Self {
        let queue = config.queue_url.clone().map(Queue::new);
        let of = saved::of(config);
        let reader = Arc::new(Reader::new(Client::new(name, config.clone(), senses)));
        Self { reader, gathering: Gathering::new(), queue, of }
    }

    fn place<'a>(&self, locator: &'a Locator) -> Result<(Ask, Option<&'a str>), StoreError> {
        let Locator::Aws { id, stage, version_id, key } = locator else {
            let text = "Secrets Manager finds secrets by `id` only";
            return Err(self.reader.client.error("?", StoreErrorKind::Missing, text));
        };
        let stage = stage.clone().unwrap_or_else(|| CURRENT.to_owned());
        Ok((Ask { id: id.clone(), stage, version: version_id.clone() }, key.as_deref()))
    }

    async fn ask(&self, ask: Ask, have: Option<String>) -> Result<Found, StoreError> {
        let reader = Arc::clone(&self.reader);
        let round = self.gathering.join(ask.clone(), have, move |members| {
            Box::pin(async move {
                let outcome = reader.round(members).await;
                identify(&reader, &outcome);
                outcome
            })
        });
        let outcome = round.await;
        let lost = || Err(self.reader.client.error(&ask.id, StoreErrorKind::Unavailable, "it was not asked for"));
        outcome.get(&ask).cloned().unwrap_or_else(lost)
    }

    fn reading(&self, id: &str, got: &Got, key: Option<&str>, again: Again) -> Result<Reading, StoreError> {
        let fields = match &got.value {
            Value::Text(text) => value::of_text(text.clone(), key),
            Value::Bytes(bytes) => value::of_bytes(bytes.clone(), key),
            Value::Nothing => {
                let text = "this version holds neither a SecretString nor a SecretBinary; put a value";
                return Err(self.reader.client.error(id, StoreErrorKind::Malformed, text));
            }
        };
        let fields = fields.map_err(|why| {
            let key = key.unwrap_or_default();
            let text = match why {
                value::NoKey::NotJson => {
                    format!("its value is not JSON, so it has no key {key}; remove key, or put JSON")
                }
                value::NoKey::NotThere => {
                    format!("its JSON has nothing under the key {key}; mend key, or put it there")
                }
            };
            self.reader.client.error(id, StoreErrorKind::Missing, text)
        })?;
        let mut reading = Reading::new(fields, Version(got.version.clone()));
        (reading.created_at, reading.again) = (got.created, again);
        Ok(reading)
    }
}

/// The same values, to be read again at another time perhaps.
fn unchanged(current: &Reading, again: Again) -> Option<Reading> {
    (again != Again::Free || current.again != Again::Free).then(|| Reading { again, ..current.clone() })
}

impl Store for AwsStore {
    fn read<'a>(&'a self, locator: &'a Locator) -> BoxFuture<'a, Result<Reading, StoreError>> {
        Box::pin(async move {
            let (ask, key) = self.place(locator)?;
            match self.ask(ask.clone(), None).await? {
                Found::Value(got, again) => self.reading(&ask.id, &got, key, again),
                Found::Same(_) | Found::Unsettled(_) => {
                    let text = "AWS answers with versions that do not fit together yet; it is asked again";
                    Err(self.reader.client.error(&ask.id, StoreErrorKind::Unavailable, text))
                }
            }
        })
    }

    fn read_again<'a>(
        &'a self,
        locator: &'a Locator,
        current: &'a Reading,
    ) -> BoxFuture<'a, Result<Option<Reading>, StoreError>> {
        Box::pin(async move {
            let (ask, key) = self.place(locator)?;
            match self.ask(ask.clone(), Some(current.version.0.clone())).await? {
                Found::Same(again) | Found::Unsettled(again) => Ok(unchanged(current, again)),
                Found::Value(got, again) if got.version == current.version.0 => Ok(unchanged(current, again)),
                Found::Value(got, again) => self.reading(&ask.id, &got, key, again).map(Some),
            }
        })
    }

    fn gathers(&self) -> bool {
        true
    }

    fn changed(&self) -> BoxFuture<'_, Changed> {
        Box::pin(async {
            match &self.queue {
                Some(queue) => queue.next(&self.reader).await,
                None => std::future::pending().await,
            }
        })
    }

    fn previous<'a>(
        &'a self,
        locator: &'a Locator,
        current: &'a Reading,
        before: Option<&'a Version>,
    ) -> BoxFuture<'a, Result<Option<Reading>, StoreError>> {
        Box::pin(async move {
            let (ask, key) = self.place(locator)?;
            if ask.version.is_some() || (ask.stage != CURRENT && before.is_none()) {
                return Ok(None);
            }
            let (stage, version) = match before {
                // Labels move on; what was in use here is known by its id.
                Some(before) => (None, Some(before.0.clone())),
                None => match self.reader.describe(&ask.id).await {
                    Ok(labels) => match labelled(&labels, PREVIOUS) {
                        Some(version) => (None, Some(version.to_owned())),
                        None => return Ok(None),
                    },
                    Err(failed) if failed.meaning == Some(Meaning::Denied) => (Some(PREVIOUS), None),
                    Err(failed) => return Err(failed.error),
                },
            };
            if version.as_deref() == Some(&*current.version.0) {
                return Ok(None);
            }
            let got = match self.reader.client.get(&ask.id, stage, version.as_deref()).await {
                Ok(got) if got.version == current.version.0 => return Ok(None),
                Ok(got) => got,
                // Never there, or pruned: AWS keeps about 100 versions.
                Err(failed) if failed.meaning == Some(Meaning::Missing) => return Ok(None),
                Err(failed) => return Err(failed.error),
            };
            // What has no such key is nothing to fall back to.
            Ok(self.reading(&ask.id, &got, key, Again::Free).ok())
        })
    }

    fn session(&self) -> Option<SecretBytes> {
        saved::save(&self.of, &self.reader.memory())
    }

    fn session_revision(&self) -> u64 {
        self.reader.memory().revision
    }

    fn resume(&self, session: &SecretBytes) {
        saved::resume(&self.of, session, &mut self.reader.memory());
    }

    fn access<'a>(&'a self, locators: &'a [&'a Locator]) -> BoxFuture<'a, Result<Option<Access>, StoreError>> {
        Box::pin(async move {
            let asks = locators.iter().map(|locator| self.place(locator).map(|(ask, _)| ask));
            let asks = asks.collect::<Result<Vec<_>, _>>()?;
            Ok(Some(access::of(&self.reader, &asks, self.queue.as_ref()).await))
        })
    }

    fn upkeep(&self, polled: &[(&Locator, Duration)]) -> Option<Upkeep> {
        // Several keys of one secret are one request.
        let polled: BTreeSet<_> =
            polled.iter().filter_map(|(locator, poll)| Some((self.place(locator).ok()?.0, *poll))).collect();
        Some(upkeep::of(&self.reader, &polled.into_iter().collect::<Vec<_>>(), self.queue.is_some()))
    }
}
