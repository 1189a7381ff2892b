//! What watching costs (<https://aws.amazon.com/secrets-manager/pricing/>, <https://aws.amazon.com/sqs/pricing/>): requests, not
//! the secrets themselves, and not what KMS charges for decrypting under a key of one's own.

use std::collections::BTreeMap;
use std::time::Duration;

use super::gather::Ask;
use super::lineage::CURRENT;
use super::reader::{BATCH, Reader};
use super::rotations::{BATCHES_EACH, DESCRIBED_FOR};
use crate::store::Upkeep;

/// US dollars a request to Secrets Manager.
const PRICE: f64 = 0.05 / 10_000.0;
/// US dollars a request to SQS.
const SQS_PRICE: f64 = 0.40 / 1_000_000.0;
/// Requests an hour to a quiet queue, each waiting 20 s.
const SQS_CALLS: f64 = 180.0;
/// Hours in a month.
const MONTH: f64 = 730.0;
const HOUR: f64 = 3600.0;

pub(super) fn of(reader: &Reader, polled: &[(Ask, Duration)], queue: bool) -> Upkeep {
    let batch = !reader.batch_denied();
    let (mut together, mut alone): (BTreeMap<Duration, usize>, Vec<(&Ask, Duration)>) = (BTreeMap::new(), Vec::new());
    for (ask, poll) in polled {
        match batch && ask.version.is_none() && ask.stage == CURRENT {
            true => *together.entry(*poll).or_default() += 1,
            false => alone.push((ask, *poll)),
        }
    }
    let (mut calls, mut how) = (0.0, Vec::new());
    let batched: usize = together.values().filter(|count| **count > 1).sum();
    if batched > 0 {
        how.push(format!("BatchGetSecretValue, {BATCH} a call"));
        let allowed = |(poll, members): (&Duration, &usize)| {
            per_hour(*poll) * (count(members.div_ceil(BATCH)) / count(BATCHES_EACH)).max(1.0)
        };
        let allowed: f64 = together.iter().filter(|(_, members)| **members > 1).map(allowed).sum();
        calls += allowed.min(count(batched) * HOUR / DESCRIBED_FOR.as_secs_f64());
    }
    for (poll, members) in &together {
        calls += per_hour(*poll) * count(members.div_ceil(BATCH));
    }
    let first = polled.iter().find(|(ask, poll)| together.get(poll) == Some(&1) && batch && ask.stage == CURRENT);
    let singles = alone.iter().map(|(ask, _)| *ask).chain(first.map(|(ask, _)| ask));
    let (blind, seeing): (Vec<_>, Vec<_>) = singles.partition(|ask| reader.describe_denied(&ask.id));
    let denied = if batch { "" } else { " (BatchGetSecretValue is denied)" };
    if !seeing.is_empty() {
        how.push(format!("DescribeSecret one by one{denied}"));
    }
    if !blind.is_empty() {
        how.push(format!(
            "GetSecretValue one by one (DescribeSecret is denied){}",
            if seeing.is_empty() { denied } else { "" }
        ));
    }
    calls += alone.iter().map(|(_, poll)| per_hour(*poll)).sum::<f64>();
    let mut usd = calls * MONTH * PRICE;
    if queue {
        how.push("events from SQS".to_owned());
        calls += SQS_CALLS;
        usd += SQS_CALLS * MONTH * SQS_PRICE;
    }
    Upkeep {
        how: how.join("; "),
        calls_per_hour: calls,
        usd_per_month: usd,
        calls: reader.client.calls(),
        identity: reader.client.identity.get().cloned(),
    }
}

fn per_hour(poll: Duration) -> f64 {
    HOUR / poll.as_secs_f64().max(1.0)
}

#[allow(clippy::cast_precision_loss, reason = "a count of secrets")]
fn count(secrets: usize) -> f64 {
    secrets as f64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;

    use super::*;
    use crate::aws_identity::Identity;
    use crate::config::model::AwsStore;
    use crate::store::Senses;
    use crate::store::aws::client::Client;

    fn reader() -> Reader {
        let senses = Senses {
            clock: Arc::new(|| Timestamp::UNIX_EPOCH),
            dice: Arc::new(|| 0.5),
            learn: Arc::new(|_| Box::new(())),
            aws: Arc::new(Identity::chain()),
            home: None,
        };
        let config = AwsStore {
            region: None,
            regions: Vec::new(),
            profile: None,
            role_arn: None,
            endpoint_url: None,
            queue_url: None,
            timeout: Duration::from_secs(10),
        };
        Reader::new(Client::new("aws".into(), config, senses))
    }

    fn polled(secrets: usize) -> Vec<(Ask, Duration)> {
        let ask = |n| Ask { id: format!("s{n}"), stage: CURRENT.into(), version: None };
        (0..secrets).map(|n| (ask(n), Duration::from_secs(300))).collect()
    }

    #[test]
    fn the_reference_tells_what_watching_costs() {
        let reader = reader();
        let told = |secrets, queue| {
            let upkeep = of(&reader, &polled(secrets), queue);
            format!("{:.0} {:.2} {}", upkeep.calls_per_hour, upkeep.usd_per_month, upkeep.how)
        };
        assert_eq!(told(1, false), "12 0.04 DescribeSecret one by one");
        assert_eq!(told(10, false), "13 0.05 BatchGetSecretValue, 20 a call");
        assert_eq!(told(1000, false), "650 2.37 BatchGetSecretValue, 20 a call");
        assert_eq!(told(1, true), "192 0.10 DescribeSecret one by one; events from SQS");
    }

    #[test]
    fn what_is_denied_costs_more_and_is_named() {
        let reader = reader();
        reader.memory().batch_denied = Some(Timestamp::UNIX_EPOCH);
        let upkeep = of(&reader, &polled(1000), false);
        assert_eq!(
            (upkeep.calls_per_hour, upkeep.how.as_str()),
            (12_000.0, "DescribeSecret one by one (BatchGetSecretValue is denied)")
        );
        let denied = |n: usize| {
            reader.memory().secrets.entry(format!("s{n}")).or_default().describe_denied = Some(Timestamp::UNIX_EPOCH);
        };
        (0..2).for_each(denied);
        let how = of(&reader, &polled(2), false).how;
        assert_eq!(how, "GetSecretValue one by one (DescribeSecret is denied) (BatchGetSecretValue is denied)");
    }
}
