//! What this identity may do with each secret, found out by doing it: IAM's simulator would need a permission of its own,
//! and knows no resource policies.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{FutureExt, StreamExt, stream};

use super::events::Queue;
use super::gather::Ask;
use super::judge::Meaning;
use super::lineage::CURRENT;
use super::policy::{self, Named, Wanted};
use super::reader::{AT_ONCE, Reader};
use crate::store::Access;

pub(super) async fn of(reader: &Reader, asks: &[Ask], queue: Option<&Queue>) -> Access {
    let mut access = Access::default();
    let ids: BTreeSet<&str> = asks.iter().map(|ask| ask.id.as_str()).collect();
    let batched = asks.iter().filter(|ask| ask.stage == CURRENT && ask.version.is_none()).count() > 1;
    let asked: Vec<_> = ids.iter().map(|id| async move { (*id, reader.describe(id).await) }.boxed()).collect();
    let asked: BTreeMap<_, _> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
    for (id, described) in asked {
        let mut may = Vec::new();
        let readable = reader.memory().secrets.get(id).and_then(|known| known.readable);
        let refused = if readable == Some(false) { refusal(reader, asks, id).await } else { None };
        match refused {
            Some(Meaning::Undecipherable) => {
                may.push("GetSecretValue");
                access
                    .lacking
                    .push(format!("kms:Decrypt on the key of {id}: reading it; the key's policy may deny it"));
            }
            Some(Meaning::Denied) => access.lacking.push(format!("secretsmanager:GetSecretValue on {id}: reading it")),
            // Why it cannot be read otherwise was told already.
            _ if readable == Some(true) => may.push("GetSecretValue"),
            _ => {}
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
        Err(failed) => access.allowed.insert(0, format!("as somebody that STS does not tell ({})", failed.error)),
    }
    access.policy = policy(reader, &ids, batched, queue).await;
    access
}

/// Why a secret is denied: asked once more, because only the answer tells the secret from its key.
async fn refusal(reader: &Reader, asks: &[Ask], id: &str) -> Option<Meaning> {
    let ask = asks.iter().find(|ask| ask.id == id)?;
    let stage = ask.version.is_none().then_some(ask.stage.as_str());
    reader.client.get(id, stage, ask.version.as_deref()).await.err()?.meaning
}

async fn policy(reader: &Reader, ids: &BTreeSet<&str>, batched: bool, queue: Option<&Queue>) -> String {
    let regions = match reader.client.opened().await {
        Ok(connection) => connection.places.iter().map(|place| place.region.clone()).collect(),
        Err(_) => vec!["*".to_owned()],
    };
    let queue = queue.map(|queue| queue.arn(regions.first().map_or("*", String::as_str)));
    let account = reader.client.identity.get().and_then(|arn| arn.split(':').nth(4)).map(str::to_owned);
    let memory = reader.memory();
    let named = |id: &&str| match memory.secrets.get(*id) {
        Some(known) => Named { id: (*id).to_owned(), arn: known.arn.clone(), keys: known.keys() },
        None => Named { id: (*id).to_owned(), arn: None, keys: BTreeMap::new() },
    };
    let secrets = ids.iter().map(named).collect();
    policy::of(&Wanted { secrets, regions, account, batched, queue })
}
