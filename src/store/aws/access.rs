//! What this identity may do with each secret, found out by doing it, and the smallest IAM policy that is needed
//! (<https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssecretsmanager.html>). IAM's simulator
//! would need a permission of its own, and knows no resource policies.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{FutureExt, StreamExt, stream};
use serde_json::{Value, json};

use super::events::Queue;
use super::gather::Ask;
use super::id::in_region;
use super::judge::Meaning;
use super::lineage::CURRENT;
use super::reader::{AT_ONCE, Reader};
use crate::store::Access;

/// How a secret's ARN ends where only its name is known: AWS puts `-` and six characters after it.
const SUFFIX: &str = "-??????";

pub(super) async fn of(reader: &Reader, asks: &[Ask], queue: Option<&Queue>) -> Access {
    let mut access = Access::default();
    let ids: BTreeSet<&str> = asks.iter().map(|ask| ask.id.as_str()).collect();
    let batched = asks.iter().filter(|ask| ask.stage == CURRENT && ask.version.is_none()).count() > 1;
    let asked: Vec<_> = ids.iter().map(|id| async move { (*id, reader.describe(id).await) }.boxed()).collect();
    let asked: BTreeMap<_, _> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
    for (id, described) in asked {
        let mut may = Vec::new();
        match reader.memory().secrets.get(id).and_then(|known| known.readable) {
            Some(true) => may.push("GetSecretValue"),
            Some(false) => {
                let lacking = "reading it; for a key of its own, kms:Decrypt, too";
                access.lacking.push(format!("secretsmanager:GetSecretValue on {id}: {lacking}"));
            }
            None => {}
        }
        match described {
            Ok(_) => may.push("DescribeSecret"),
            Err(failed) if failed.meaning == Some(Meaning::Denied) => {
                let lacking = "seeing a change without reading the value, and when it is rotated next";
                access.lacking.push(format!("secretsmanager:DescribeSecret on {id}: {lacking}"));
            }
            // Why it cannot be read was told already.
            Err(_) => {}
        }
        let may = if may.is_empty() { "nothing that is known of".to_owned() } else { may.join(", ") };
        access.allowed.push(format!("{id}: {may}"));
    }
    if batched {
        match reader.batch_denied() {
            true => access.lacking.push("secretsmanager:BatchGetSecretValue on *: reading 20 secrets a request".into()),
            false => access.allowed.push("all: BatchGetSecretValue".into()),
        }
    }
    match reader.client.learn_identity().await {
        Ok(arn) => access.allowed.insert(0, format!("as {arn}")),
        Err(error) => access.allowed.insert(0, format!("as somebody that STS does not tell ({error})")),
    }
    access.policy = policy(reader, &ids, batched, queue).await;
    access
}

async fn policy(reader: &Reader, ids: &BTreeSet<&str>, batched: bool, queue: Option<&Queue>) -> String {
    let regions = match reader.client.connection().await {
        Ok(connection) => connection.places.iter().map(|place| place.region.clone()).collect(),
        Err(_) => vec!["*".to_owned()],
    };
    let (mut secrets, mut keys) = (BTreeSet::new(), BTreeMap::<String, BTreeSet<String>>::new());
    let memory = reader.memory();
    for id in ids {
        let known = memory.secrets.get(*id);
        let arn = known.and_then(|known| known.arn.clone()).filter(|arn| !arn.is_empty());
        for region in &regions {
            secrets.insert(match &arn {
                Some(arn) => in_region(arn, region),
                None if id.starts_with("arn:") => in_region(id, region),
                None => format!("arn:aws:secretsmanager:{region}:*:secret:{id}{SUFFIX}"),
            });
            if let Some(key) = known.and_then(|known| known.kms_key.as_deref()).filter(|key| !managed(key)) {
                let account = arn.as_deref().and_then(|arn| arn.split(':').nth(4)).unwrap_or("*");
                let by = format!("secretsmanager.{region}.amazonaws.com");
                keys.entry(by).or_default().insert(key_arn(key, region, account));
            }
        }
    }
    drop(memory);
    let mut statements = vec![json!({
        "Effect": "Allow",
        "Action": ["secretsmanager:GetSecretValue", "secretsmanager:DescribeSecret"],
        "Resource": secrets,
    })];
    if batched {
        let action = "secretsmanager:BatchGetSecretValue";
        statements.push(json!({"Effect": "Allow", "Action": action, "Resource": "*"}));
    }
    for (by, keys) in keys {
        let condition = json!({"StringEquals": {"kms:ViaService": by}});
        statements.push(json!({"Effect": "Allow", "Action": "kms:Decrypt", "Resource": keys, "Condition": condition}));
    }
    if let Some(queue) = queue {
        let actions = ["sqs:ReceiveMessage", "sqs:DeleteMessage"];
        statements.push(json!({"Effect": "Allow", "Action": actions, "Resource": queue.arn()}));
    }
    let policy: Value = json!({"Version": "2012-10-17", "Statement": statements});
    // A tree of texts: it cannot fail.
    serde_json::to_string_pretty(&policy).unwrap_or_default()
}

/// The account's default key needs no permission of its own.
fn managed(key: &str) -> bool {
    key.ends_with("alias/aws/secretsmanager")
}

fn key_arn(key: &str, region: &str, account: &str) -> String {
    match key.starts_with("arn:") {
        true => key.to_owned(),
        // An alias is no resource of a policy.
        false if key.starts_with("alias/") => format!("arn:aws:kms:{region}:{account}:key/*"),
        false => format!("arn:aws:kms:{region}:{account}:key/{key}"),
    }
}
