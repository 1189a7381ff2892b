//! Events about secrets: EventBridge's `Secret Label Updated`
//! (<https://docs.aws.amazon.com/secretsmanager/latest/userguide/event-detail-secret-label-updated-secretsmanager.html>),
//! also through SNS, and what CloudTrail tells of calls and of rotations
//! (<https://docs.aws.amazon.com/secretsmanager/latest/userguide/cloudtrail_log_entries.html>). Pure.

use serde_json::Value;

use super::id::names;
use super::lineage::CURRENT;
use crate::config::model::Locator;

/// What a call that changes nothing is named: what the agent itself asks must not make it ask again.
const READS: [&str; 3] = ["GetSecretValue", "DescribeSecret", "BatchGetSecretValue"];

/// One event, as far as it matters here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Event {
    /// Empty where it has none.
    arn: String,
    name: String,
    /// None: something about the secret changed.
    pub moved: Option<Moved>,
}

/// A label is on another version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moved {
    pub label: String,
    pub version: Option<String>,
}

/// The event in a message: one that is of no secret where it says nothing that matters. None: it is none of Secrets
/// Manager's.
pub(super) fn of(body: &str) -> Option<Event> {
    let whole: Value = serde_json::from_str(body).ok()?;
    if let (Some("Notification"), Some(inner)) = (whole["Type"].as_str(), whole["Message"].as_str()) {
        // SNS without raw delivery.
        return of(inner);
    }
    if whole["source"].as_str() != Some("aws.secretsmanager") {
        return None;
    }
    let detail = &whole["detail"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if whole["detail-type"].as_str() == Some("Secret Label Updated") {
        let version = detail["versionId"].as_str().filter(|version| !version.is_empty());
        let moved = Moved { label: text(&detail["labelUpdated"]), version: version.map(str::to_owned) };
        let arn = text(&whole["resources"][0]);
        return Some(Event { arn, name: text(&detail["name"]), moved: Some(moved) });
    }
    if detail["eventName"].as_str().is_some_and(|name| READS.contains(&name)) {
        return Some(Event::default());
    }
    let (asked, told) = (&detail["requestParameters"], &detail["additionalEventData"]);
    let ids = [&asked["secretId"], &told["SecretId"], &told["secretId"]];
    let id = ids.into_iter().find_map(Value::as_str).unwrap_or_default().to_owned();
    let (arn, name) = if id.starts_with("arn:") { (id, String::new()) } else { (String::new(), id) };
    Some(Event { arn, name, moved: None })
}

impl Event {
    /// Whether it is about the secret that somebody calls `id`: each may have it by name, ARN, or ARN without its suffix.
    pub fn is_of(&self, id: &str) -> bool {
        if id.starts_with("arn:") && !self.arn.is_empty() {
            return names(id, &self.arn, "") || names(&self.arn, id, "");
        }
        // A read more than needed, where a name looks like another with a suffix, costs little.
        let own: Vec<&str> = friendly(&self.arn).chain([self.name.as_str()]).filter(|name| !name.is_empty()).collect();
        friendly(id).any(|name| own.contains(&name))
    }

    /// Whether what is read there may be another version now.
    pub fn concerns(&self, locator: &Locator) -> bool {
        let Locator::Aws { id, stage, version_id: None, .. } = locator else { return false };
        let label = stage.as_deref().unwrap_or(CURRENT);
        self.is_of(id) && self.moved.as_ref().is_none_or(|moved| moved.label == label)
    }
}

/// The names that the secret with this id may have: an ARN need not have the six characters that AWS puts after its name.
fn friendly(id: &str) -> impl Iterator<Item = &str> {
    let name = if id.starts_with("arn:") { id.splitn(7, ':').nth(6).unwrap_or_default() } else { id };
    let cut = name.len().checked_sub(7).filter(|_| id.starts_with("arn:"));
    let bare = cut.and_then(|cut| name.get(..cut).filter(|_| name[cut..].starts_with('-')));
    [Some(name), bare].into_iter().flatten()
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
        let event = of(&updated("AWSCURRENT")).expect("an event");
        for id in ["mySecret", ARN, &ARN[..ARN.len() - 7]] {
            assert!(event.concerns(&locator(id, None, None)), "{id}");
            assert!(event.concerns(&locator(id, Some("AWSCURRENT"), None)));
            assert!(!event.concerns(&locator(id, Some("blue"), None)));
            assert!(!event.concerns(&locator(id, None, Some("v1"))), "a version never changes");
        }
        assert!(!event.concerns(&locator("mySecret2", None, None)));
    }

    #[test]
    fn it_is_found_in_what_sns_wraps() {
        let wrapped = serde_json::json!({"Type": "Notification", "Message": updated("AWSCURRENT")}).to_string();
        assert_eq!(of(&wrapped), of(&updated("AWSCURRENT")));
    }

    #[test]
    fn what_cloudtrail_tells_by_name_or_arn_is_of_the_secret_whatever_it_is_called_here() {
        let told = |detail: &str| {
            let whole = format!(r#"{{"source": "aws.secretsmanager", "detail-type": "…", "detail": {detail}}}"#);
            of(&whole).expect("an event")
        };
        let (partial, other) = (&ARN[..ARN.len() - 7], ARN.replace("mySecret", "yourSecret"));
        for by in ["mySecret", ARN, partial] {
            for detail in [
                format!(r#"{{"eventName": "PutSecretValue", "requestParameters": {{"secretId": "{by}"}}}}"#),
                format!(
                    r#"{{"eventName": "UpdateSecretVersionStage", "requestParameters": {{"secretId": "{by}",
                    "versionStage": "AWSCURRENT"}}}}"#
                ),
                format!(
                    r#"{{"eventType": "AwsServiceEvent", "eventName": "RotationSucceeded", "requestParameters": null,
                    "additionalEventData": {{"SecretId": "{by}"}}}}"#
                ),
            ] {
                let event = told(&detail);
                for id in ["mySecret", ARN, partial] {
                    assert!(event.concerns(&locator(id, None, None)), "{by} for {id}");
                }
                for id in ["mySecre", "mySecret-a1b2c4", "yourSecret", &other, "arn:aws", ""] {
                    assert!(!event.concerns(&locator(id, None, None)), "{by} for {id}");
                }
            }
            let read = format!(r#"{{"eventName": "GetSecretValue", "requestParameters": {{"secretId": "{by}"}}}}"#);
            assert!(!told(&read).concerns(&locator(by, None, None)), "it would feed itself");
        }
    }

    #[test]
    fn what_says_nothing_that_matters_is_of_no_secret() {
        for detail in [
            r#"{"eventName": "BatchGetSecretValue", "requestParameters": {"secretIdList": ["a"]}}"#,
            r#"{"eventName": "ListSecrets", "requestParameters": null}"#,
            "7",
        ] {
            let event = of(&format!(r#"{{"source": "aws.secretsmanager", "detail": {detail}}}"#)).expect("an event");
            assert!(["", "a", ARN].iter().all(|id| !event.is_of(id)), "{detail}");
        }
    }

    #[test]
    fn what_is_something_else_is_no_event() {
        for body in ["", "{", "[]", "{}", r#"{"source": "aws.s3", "detail": {}}"#, r#"{"Type": "Notification"}"#] {
            assert_eq!(of(body), None, "{body}");
        }
    }
}
