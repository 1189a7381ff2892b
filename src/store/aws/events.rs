//! Changes announced on an SQS queue: EventBridge's `Secret Label Updated`
//! (<https://docs.aws.amazon.com/secretsmanager/latest/userguide/event-detail-secret-label-updated-secretsmanager.html>),
//! also through SNS, and what CloudTrail tells of secrets. The poll is the net under it: what is lost costs time, what comes
//! twice or late costs nothing.
//!
//! A queue is one agent's: a message that one agent took, no other sees. What is no event of Secrets Manager is left in it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_config::Region;
use aws_config::timeout::TimeoutConfig;
use serde_json::Value;

use super::client::Connection;
use super::id::names;
use super::judge::{self, Meaning};
use super::lineage::CURRENT;
use super::policy::partition;
use super::reader::Reader;
use crate::config::model::Locator;
use crate::schedule::Backoff;
use crate::store::{Changed, StoreError};

/// How long one request waits for a message, in seconds: the longest that SQS allows.
const WAIT: i32 = 20;
/// The most that SQS gives at once.
const MOST: i32 = 10;
/// Between requests that fail.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// One event, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Event {
    arn: String,
    name: String,
    /// None: something about the secret changed.
    moved: Option<Moved>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Moved {
    label: String,
    version: String,
}

/// The queue.
pub(super) struct Queue {
    url: String,
    /// As long as the credentials that it has are good.
    client: Mutex<Option<(Arc<Connection>, aws_sdk_sqs::Client)>>,
    failing: Mutex<Option<Backoff>>,
    foreign: std::sync::atomic::AtomicBool,
}

impl Queue {
    pub fn new(url: String) -> Self {
        Self { url, client: Mutex::default(), failing: Mutex::default(), foreign: false.into() }
    }

    /// Waits for events that concern what is known here.
    pub async fn next(&self, reader: &Reader) -> Changed {
        loop {
            let events = match self.receive(reader).await {
                Ok(events) => events,
                Err(error) => {
                    tokio::time::sleep(self.failed(reader, &error)).await;
                    continue;
                }
            };
            if self.failing.lock().unwrap_or_else(PoisonError::into_inner).take().is_some() {
                tracing::info!(store = %reader.client.store, "its queue answers again");
            }
            let events: Vec<Event> = events.into_iter().filter(|event| note(reader, event)).collect();
            if !events.is_empty() {
                return Changed::only(move |locator| events.iter().any(|event| concerns(event, locator)));
            }
        }
    }

    fn client(&self, reader: &Reader, connection: &Arc<Connection>) -> aws_sdk_sqs::Client {
        let mut held = self.client.lock().unwrap_or_else(PoisonError::into_inner);
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

    /// Takes what is there, and deletes it: what it says is looked up in Secrets Manager, which is also asked without it.
    async fn receive(&self, reader: &Reader) -> Result<Vec<Event>, StoreError> {
        let connection = reader.client.connection(&self.url).await?;
        let client = self.client(reader, &connection);
        let failed =
            |operation: &str, refusal| judge::error(&reader.client.store, "SQS", operation, &self.url, &refusal);
        reader.client.count("ReceiveMessage");
        let request =
            client.receive_message().queue_url(&self.url).wait_time_seconds(WAIT).max_number_of_messages(MOST);
        let answer = match request.send().await.map_err(judge::refusal) {
            Ok(answer) => answer,
            Err(refusal) => {
                if refusal.meaning == Meaning::Expired {
                    reader.client.forget(&connection).await;
                }
                return Err(failed("sqs:ReceiveMessage", refusal));
            }
        };
        let (mut events, mut done) = (Vec::new(), Vec::new());
        for message in answer.messages.unwrap_or_default() {
            match message.body.as_deref().and_then(event) {
                Some(event) => {
                    events.push(event);
                    done.extend(message.receipt_handle);
                }
                None => self.left_alone(reader),
            }
        }
        for handle in done {
            reader.client.count("DeleteMessage");
            let deleted = client.delete_message().queue_url(&self.url).receipt_handle(handle).send().await;
            if let Err(error) = deleted {
                // It comes again, and says nothing new then.
                let error = failed("sqs:DeleteMessage", judge::refusal(error));
                tracing::warn!(store = %reader.client.store, "a message stays in its queue: {error}");
            }
        }
        Ok(events)
    }

    fn left_alone(&self, reader: &Reader) {
        if !self.foreign.swap(true, std::sync::atomic::Ordering::Relaxed) {
            tracing::warn!(store = %reader.client.store, queue = %self.url,
                "holds messages that are no events of Secrets Manager: they are left there; give the agent a queue of its own");
        }
    }

    fn failed(&self, reader: &Reader, error: &StoreError) -> Duration {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
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

/// An event of Secrets Manager in a message. None: it is something else.
fn event(body: &str) -> Option<Event> {
    let whole: Value = serde_json::from_str(body).ok()?;
    if let (Some("Notification"), Some(inner)) = (whole["Type"].as_str(), whole["Message"].as_str()) {
        // SNS without raw delivery.
        return event(inner);
    }
    if whole["source"].as_str() != Some("aws.secretsmanager") {
        return None;
    }
    let (detail, text) = (&whole["detail"], |value: &Value| value.as_str().unwrap_or_default().to_owned());
    if whole["detail-type"].as_str() == Some("Secret Label Updated") {
        let moved = Moved { label: text(&detail["labelUpdated"]), version: text(&detail["versionId"]) };
        let arn = text(&whole["resources"][0]);
        return Some(Event { arn, name: text(&detail["name"]), moved: Some(moved) });
    }
    let asked = [&detail["requestParameters"]["secretId"], &detail["additionalEventData"]["SecretId"]];
    let id = asked.into_iter().find_map(Value::as_str)?.to_owned();
    let arn = if id.starts_with("arn:") { id.clone() } else { String::new() };
    let reads = ["GetSecretValue", "DescribeSecret", "BatchGetSecretValue"];
    let asks = detail["eventName"].as_str().is_some_and(|name| reads.contains(&name));
    // What the agent itself asks must not make it ask again.
    Some(if asks { Event::default() } else { Event { name: id, arn, moved: None } })
}

fn is_of(event: &Event, id: &str) -> bool {
    id == event.name || names(id, &event.arn, &event.name)
}

fn concerns(event: &Event, locator: &Locator) -> bool {
    let Locator::Aws { id, stage, version_id: None, .. } = locator else { return false };
    let label = stage.as_deref().unwrap_or(CURRENT);
    is_of(event, id) && event.moved.as_ref().is_none_or(|moved| moved.label == label)
}

/// Remembers what an event announces. False: everybody has it, or nobody here uses it.
fn note(reader: &Reader, event: &Event) -> bool {
    let mut memory = reader.memory();
    let mut news = false;
    for ((id, of), lineage) in &mut memory.lineages {
        if is_of(event, id) {
            news |= match &event.moved {
                None => true,
                Some(moved) => moved.label == *of && lineage.announce(&moved.version),
            };
        }
    }
    news
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:secretsmanager:us-west-2:012345678901:secret:mySecret-a1b2c3";

    fn updated(label: &str) -> String {
        format!(
            r#"{{"version": "0", "detail-type": "Secret Label Updated", "source": "aws.secretsmanager",
                "account": "012345678901", "region": "us-west-2", "resources": ["{ARN}"],
                "detail": {{"name": "mySecret", "labelUpdated": "{label}", "versionId": "v2"}}}}"#
        )
    }

    fn locator(id: &str, stage: Option<&str>, version_id: Option<&str>) -> Locator {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Locator::Aws { id: id.into(), stage: own(stage), version_id: own(version_id), key: None }
    }

    #[test]
    fn an_event_concerns_who_uses_that_label_of_that_secret() {
        let event = event(&updated("AWSCURRENT")).expect("an event");
        for id in ["mySecret", ARN, &ARN[..ARN.len() - 7]] {
            assert!(concerns(&event, &locator(id, None, None)), "{id}");
            assert!(concerns(&event, &locator(id, Some("AWSCURRENT"), None)));
            assert!(!concerns(&event, &locator(id, Some("blue"), None)));
            assert!(!concerns(&event, &locator(id, None, Some("v1"))), "a version never changes");
        }
        assert!(!concerns(&event, &locator("mySecret2", None, None)));
    }

    #[test]
    fn it_is_found_in_what_sns_wraps_and_in_what_cloudtrail_tells() {
        let wrapped = serde_json::json!({"Type": "Notification", "Message": updated("AWSCURRENT")}).to_string();
        assert_eq!(event(&wrapped), event(&updated("AWSCURRENT")));
        let put = r#"{"source": "aws.secretsmanager", "detail-type": "AWS API Call via CloudTrail",
            "detail": {"eventName": "PutSecretValue", "requestParameters": {"secretId": "mySecret"}}}"#;
        assert!(concerns(&event(put).expect("an event"), &locator("mySecret", None, None)));
        let read = put.replace("PutSecretValue", "GetSecretValue");
        assert!(!concerns(&event(&read).expect("an event"), &locator("mySecret", None, None)), "it would feed itself");
    }

    #[test]
    fn what_is_something_else_is_no_event() {
        for body in
            ["", "{", "[]", "{}", r#"{"source": "aws.s3", "detail": {}}"#, r#"{"source": "aws.secretsmanager"}"#]
        {
            assert_eq!(event(body), None, "{body}");
        }
    }

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
