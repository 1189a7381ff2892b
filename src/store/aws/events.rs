//! Changes announced on an SQS queue. The poll is the net under it: what is lost costs time, what comes twice or late costs
//! nothing. So a message is deleted only once what it says was handed on.
//!
//! A queue is one agent's: a message that one agent took, no other sees. What is no event of Secrets Manager is left in it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_config::Region;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_sqs::types::DeleteMessageBatchRequestEntry;

use super::announcement::{self, Event};
use super::client::Connection;
use super::judge::{self, Meaning};
use super::policy::partition;
use super::reader::Reader;
use crate::schedule::Backoff;
use crate::store::{Changed, StoreError};

/// How long one request waits for a message, in seconds: the longest that SQS allows.
const WAIT: i32 = 20;
/// The most that SQS gives, and deletes, at once.
const MOST: i32 = 10;
/// Between requests that bring nothing but messages that are left there.
const AMONG_FOREIGN: Duration = Duration::from_secs(1);
/// Between requests that fail.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The queue.
pub(super) struct Queue {
    url: String,
    /// As long as the credentials that it has are good.
    client: Mutex<Option<(Arc<Connection>, aws_sdk_sqs::Client)>>,
    failing: Mutex<Option<Backoff>>,
    /// Messages (their receipt handles) that were handed on, and are to be deleted.
    handed: Mutex<Vec<String>>,
    foreign: AtomicBool,
    /// Deleting fails.
    undeleted: AtomicBool,
}

/// What came at once.
#[derive(Default)]
struct Received {
    events: Vec<Event>,
    /// How many messages were left alone.
    foreign: usize,
}

impl Queue {
    pub fn new(url: String) -> Self {
        let (client, failing, handed) = Default::default();
        Self { url, client, failing, handed, foreign: false.into(), undeleted: false.into() }
    }

    /// Waits for events that concern what is known here. What was handed on before is deleted meanwhile.
    pub async fn next(&self, reader: &Reader) -> Changed {
        loop {
            self.delete(reader).await;
            let Received { events, foreign } = match self.receive(reader).await {
                Ok(received) => received,
                Err(error) => {
                    tokio::time::sleep(self.failed(reader, &error)).await;
                    continue;
                }
            };
            if lock(&self.failing).take().is_some() {
                tracing::info!(store = %reader.client.store, "its queue answers again");
            }
            let none = events.is_empty();
            let events: Vec<Event> = events.into_iter().filter(|event| note(reader, event)).collect();
            if !events.is_empty() {
                return Changed::only(move |locator| events.iter().any(|event| event.concerns(locator)));
            }
            if none && foreign > 0 {
                // They are there again soon: no reason to ask for them without a rest.
                tokio::time::sleep(AMONG_FOREIGN).await;
            }
        }
    }

    fn client(&self, reader: &Reader, connection: &Arc<Connection>) -> aws_sdk_sqs::Client {
        let mut held = lock(&self.client);
        if let Some((of, client)) = &*held
            && Arc::ptr_eq(of, connection)
        {
            return client.clone();
        }
        let timeout = Duration::from_secs(WAIT.unsigned_abs().into()) + reader.client.config.timeout;
        let timeouts = TimeoutConfig::builder().connect_timeout(reader.client.config.timeout);
        let mut config = aws_sdk_sqs::config::Builder::from(&connection.sdk)
            .timeout_config(timeouts.operation_timeout(timeout).build());
        // The queue's URL says where it is, whatever else is set.
        if let Some(end) = origin(&self.url) {
            config = config.endpoint_url(&self.url[..end]);
        }
        if let Some(region) = region(&self.url) {
            config = config.region(Region::new(region.to_owned()));
        }
        let client = aws_sdk_sqs::Client::from_conf(config.build());
        *held = Some((Arc::clone(connection), client.clone()));
        client
    }

    /// Takes what is there.
    async fn receive(&self, reader: &Reader) -> Result<Received, StoreError> {
        let connection = reader.client.connection(&self.url).await?;
        let client = self.client(reader, &connection);
        reader.client.count("ReceiveMessage");
        let request =
            client.receive_message().queue_url(&self.url).wait_time_seconds(WAIT).max_number_of_messages(MOST);
        let answer = match request.send().await.map_err(judge::refusal) {
            Ok(answer) => answer,
            Err(refusal) => {
                if refusal.meaning == Meaning::Expired {
                    reader.client.forget(&connection).await;
                }
                return Err(judge::error(&reader.client.store, "SQS", "sqs:ReceiveMessage", &self.url, &refusal));
            }
        };
        let mut received = Received::default();
        for message in answer.messages.unwrap_or_default() {
            match message.body.as_deref().and_then(announcement::of) {
                Some(event) => {
                    received.events.push(event);
                    lock(&self.handed).extend(message.receipt_handle);
                }
                None => {
                    received.foreign += 1;
                    self.left_alone(reader);
                }
            }
        }
        Ok(received)
    }

    /// Deletes what was handed on. What is not deleted comes again, and says nothing new then.
    async fn delete(&self, reader: &Reader) {
        let handles = std::mem::take(&mut *lock(&self.handed));
        if handles.is_empty() {
            return;
        }
        let entries = handles.into_iter().enumerate().filter_map(|(n, handle)| {
            DeleteMessageBatchRequestEntry::builder().id(n.to_string()).receipt_handle(handle).build().ok()
        });
        let Ok(connection) = reader.client.connection(&self.url).await else { return };
        let client = self.client(reader, &connection);
        reader.client.count("DeleteMessageBatch");
        let request = client.delete_message_batch().queue_url(&self.url).set_entries(Some(entries.collect()));
        let failure = match request.send().await.map_err(judge::refusal) {
            Ok(answer) => answer.failed.into_iter().next().map(|failed| format!("{}: {}", failed.id, failed.code)),
            Err(refusal) => {
                let store = &reader.client.store;
                Some(judge::error(store, "SQS", "sqs:DeleteMessage", &self.url, &refusal).to_string())
            }
        };
        let before = self.undeleted.swap(failure.is_some(), Ordering::Relaxed);
        if let Some(failure) = failure.filter(|_| !before) {
            tracing::warn!(store = %reader.client.store, "messages stay in its queue, and come again: {failure}");
        }
    }

    fn left_alone(&self, reader: &Reader) {
        if !self.foreign.swap(true, Ordering::Relaxed) {
            tracing::warn!(store = %reader.client.store, queue = %self.url,
                "holds messages that are no events of Secrets Manager: they are left there; give the agent a queue of its own");
        }
    }

    fn failed(&self, reader: &Reader, error: &StoreError) -> Duration {
        let mut failing = lock(&self.failing);
        if failing.is_none() {
            tracing::warn!(store = %reader.client.store, "changes are not announced, only polled for: {error}");
        }
        let backoff = failing.get_or_insert_with(|| Backoff::new(BACKOFF.0, BACKOFF.1));
        backoff.fail((reader.client.senses.dice)(), error.retry_after)
    }

    /// The queue's ARN, as far as its URL tells; of the store's region where that names none.
    pub fn arn(&self, store: &str) -> String {
        let mut path = origin(&self.url).map(|end| &self.url[end..]).unwrap_or_default().split('/').skip(1);
        let (account, name) = (path.next().unwrap_or("*"), path.next().unwrap_or("*"));
        let region = region(&self.url).unwrap_or(store);
        format!("arn:{}:sqs:{region}:{account}:{name}", partition(region))
    }
}

/// Where scheme and host of a URL end.
fn origin(url: &str) -> Option<usize> {
    let host = url.find("://")? + 3;
    Some(url[host..].find('/').map_or(url.len(), |end| host + end))
}

/// `https://sqs.us-west-2.amazonaws.com/…`, also of a VPC endpoint, and `us-west-2.queue.amazonaws.com`.
fn region(url: &str) -> Option<&str> {
    let host = &url[url.find("://")? + 3..];
    let host = host.split(['/', ':']).next()?;
    let parts: Vec<&str> = host.split('.').collect();
    let at = parts.iter().position(|part| ["sqs", "sqs-fips", "queue"].contains(part))?;
    let region = if parts[at] == "queue" { parts.get(at.checked_sub(1)?) } else { parts.get(at + 1) };
    region.copied().filter(|region| region.contains('-'))
}

/// Remembers what an event announces. False: everybody has it, or nobody here uses it.
fn note(reader: &Reader, event: &Event) -> bool {
    let mut memory = reader.memory();
    let mut news = false;
    for ((id, of), lineage) in &mut memory.lineages {
        if event.is_of(id) {
            news |= match &event.moved {
                None => true,
                Some(moved) => moved.label == *of && moved.version.as_deref().is_none_or(|id| lineage.announce(id)),
            };
        }
    }
    news
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queues_url_tells_its_region_and_arn() {
        for (url, of, arn) in [
            ("https://sqs.us-west-2.amazonaws.com/123/q", Some("us-west-2"), "arn:aws:sqs:us-west-2:123:q"),
            ("https://vpce-1.sqs.eu-west-1.vpce.amazonaws.com/123/q", Some("eu-west-1"), "arn:aws:sqs:eu-west-1:123:q"),
            ("https://eu-west-1.queue.amazonaws.com/123/q", Some("eu-west-1"), "arn:aws:sqs:eu-west-1:123:q"),
            ("https://sqs.cn-north-1.amazonaws.com.cn/123/q", Some("cn-north-1"), "arn:aws-cn:sqs:cn-north-1:123:q"),
            ("http://127.0.0.1:5000/123/q", None, "arn:aws:sqs:eu-north-1:123:q"),
            ("http://localhost", None, "arn:aws:sqs:eu-north-1:*:*"),
        ] {
            assert_eq!((region(url), Queue::new(url.into()).arn("eu-north-1").as_str()), (of, arn), "{url}");
        }
    }
}
