//! The four requests, from the SDK's types to the store's.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::client::{Client, Failed};
use super::id::in_region;
use super::judge::{self, Refusal};
use super::lineage::Labels;
use crate::secret::SecretBytes;
use crate::store::{StoreError, StoreErrorKind};

/// One answer of GetSecretValue, or one entry of BatchGetSecretValue.
pub(super) struct Got {
    pub arn: String,
    pub name: String,
    /// VersionId.
    pub version: String,
    /// When that version was made.
    pub created: Option<Timestamp>,
    pub value: Value,
}

/// What a version holds.
pub(super) enum Value {
    /// SecretString.
    Text(SecretBytes),
    /// SecretBinary.
    Bytes(SecretBytes),
    /// Neither.
    Nothing,
}

/// What DescribeSecret tells.
pub(super) struct Described {
    pub arn: Option<String>,
    pub name: Option<String>,
    pub kms_key: Option<String>,
    /// Replicas' keys, by region.
    pub replicas: BTreeMap<String, Option<String>>,
    pub labels: Labels,
    /// Only while rotation is on.
    pub next_rotation: Option<Timestamp>,
    /// When its deletion was asked for.
    pub deleted: Option<Timestamp>,
}

type SdkTime = aws_sdk_secretsmanager::primitives::DateTime;

fn time(at: SdkTime) -> Option<Timestamp> {
    Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).ok()?).ok()
}

fn value(text: Option<String>, bytes: Option<aws_sdk_secretsmanager::primitives::Blob>) -> Value {
    match (text, bytes) {
        (Some(text), _) => Value::Text(SecretBytes::from(text)),
        (None, Some(bytes)) => Value::Bytes(SecretBytes::new(bytes.into_inner())),
        (None, None) => Value::Nothing,
    }
}

impl Client {
    /// `GetSecretValue` by label or by version.
    pub async fn get(&self, id: &str, stage: Option<&str>, version: Option<&str>) -> Result<Got, Failed> {
        let answer = self.ask("GetSecretValue", id, |connection, at| async move {
            let place = &connection.places[at];
            let request = place.sdk.get_secret_value().secret_id(in_region(id, &place.region));
            let request = request.set_version_stage(stage.map(str::to_owned));
            request.set_version_id(version.map(str::to_owned)).send().await.map_err(judge::refusal)
        });
        let answer = answer.await?;
        let Some(version) = answer.version_id else {
            let text =
                "the answer names no version: something else answers in AWS's place; look at endpoint_url and proxies";
            return Err(Failed::of(self.error(id, StoreErrorKind::Malformed, text), None));
        };
        Ok(Got {
            arn: answer.arn.unwrap_or_default(),
            name: answer.name.unwrap_or_default(),
            version,
            created: answer.created_date.and_then(time),
            value: value(answer.secret_string, answer.secret_binary),
        })
    }

    /// `DescribeSecret`: moves and decrypts no value.
    pub async fn describe(&self, id: &str) -> Result<Described, Failed> {
        let answer = self.ask("DescribeSecret", id, |connection, at| async move {
            let place = &connection.places[at];
            let request = place.sdk.describe_secret().secret_id(in_region(id, &place.region));
            Ok((at == 0, request.send().await.map_err(judge::refusal)?))
        });
        let (primary, answer) = answer.await?;
        let rotates = answer.rotation_enabled == Some(true);
        let replicas = answer.replication_status.unwrap_or_default().into_iter();
        Ok(Described {
            arn: answer.arn,
            name: answer.name,
            kms_key: answer.kms_key_id,
            replicas: replicas.filter_map(|replica| Some((replica.region?, replica.kms_key_id))).collect(),
            labels: Labels { of: answer.version_ids_to_stages.unwrap_or_default().into_iter().collect(), primary },
            next_rotation: answer.next_rotation_date.filter(|_| rotates).and_then(time),
            deleted: answer.deleted_date.and_then(time),
        })
    }

    /// `BatchGetSecretValue` of at most 20 ids, by AWSCURRENT: the values, and the errors by id.
    pub async fn batch(&self, ids: &[String]) -> Result<(Vec<Got>, BTreeMap<String, StoreError>), Failed> {
        let (mut values, mut errors, mut next) = (Vec::new(), BTreeMap::new(), None);
        let what = match ids {
            [first, rest @ ..] if !rest.is_empty() => format!("{first} and {} more", rest.len()),
            _ => ids.concat(),
        };
        loop {
            let token: &Option<String> = &next;
            let answer = self.ask("BatchGetSecretValue", &what, |connection, at| async move {
                let place = &connection.places[at];
                let named = ids.iter().map(|id| in_region(id, &place.region)).collect();
                let request = place.sdk.batch_get_secret_value().set_secret_id_list(Some(named));
                let answer = request.set_next_token(token.clone()).send().await.map_err(judge::refusal)?;
                Ok((place.region.clone(), at == 0, answer))
            });
            let (region, primary, answer) = answer.await?;
            // What a replica has not, or does not give, is asked for by itself: the first region's failure is told there.
            for refused in answer.errors.unwrap_or_default().into_iter().filter(|_| primary) {
                let told = refused.secret_id.unwrap_or_default();
                let Some(id) = ids.iter().find(|id| **id == told || in_region(id, &region) == told) else { continue };
                let text = refused.message.unwrap_or_default();
                let refusal = Refusal::of_code(&refused.error_code.unwrap_or_default(), &text);
                errors.insert(id.clone(), judge::error(&self.store, &region, "GetSecretValue", id, &refusal));
            }
            // What names no version is asked for by itself, and told there.
            values.extend(answer.secret_values.unwrap_or_default().into_iter().filter_map(|entry| {
                Some(Got {
                    version: entry.version_id?,
                    arn: entry.arn.unwrap_or_default(),
                    name: entry.name.unwrap_or_default(),
                    created: entry.created_date.and_then(time),
                    value: value(entry.secret_string, entry.secret_binary),
                })
            }));
            next = answer.next_token.filter(|token| !token.is_empty() && next.as_ref() != Some(token));
            if next.is_none() {
                return Ok((values, errors));
            }
        }
    }
}
