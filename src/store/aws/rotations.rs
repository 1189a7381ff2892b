//! When AWS rotates secrets next: DescribeSecret tells, asked of a few secrets beside the batches.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;

use super::gather::{Ask, Haves};
use super::reader::{DENIED_FOR, Reader, past};
use crate::schedule;
use crate::secret::Again;

/// How long what DescribeSecret says of rotations is taken to stand, unless another version comes.
pub(super) const DESCRIBED_FOR: Duration = Duration::from_secs(12 * 3600);
/// How long it is not asked again after it failed.
const FAILED_FOR: Duration = Duration::from_secs(15 * 60);
/// Batches for each that is described. A thousand secrets are 50 batches: 54 requests.
pub(super) const BATCHES_EACH: usize = 12;
/// Rounds that begin within this are one poll's: a thousand secrets are read in several.
const WAVE: Duration = Duration::from_secs(30);

/// How many may be described beside the batches: one in each poll, and one for every [`BATCHES_EACH`].
#[derive(Default)]
pub(super) struct Allowance {
    /// Not yet made use of.
    batches: usize,
    /// When the poll's first round began.
    begun: Option<Timestamp>,
}

impl Allowance {
    fn with(&mut self, batches: usize, now: Timestamp) -> usize {
        if self.begun.is_none_or(|begun| past(begun, now, WAVE)) {
            self.begun = Some(now);
            self.batches = batches.max(BATCHES_EACH);
        } else {
            self.batches += batches;
        }
        let many = self.batches / BATCHES_EACH;
        self.batches %= BATCHES_EACH;
        many
    }
}

impl Reader {
    pub async fn learn_rotation(&self, id: String) {
        if let Err(failed) = self.describe(&id).await {
            tracing::debug!(store = %self.client.store, "cannot learn when it is rotated next: {}", failed.error);
            self.learnt_nothing(&id);
        }
    }

    fn learnt_nothing(&self, id: &str) {
        let now = self.now();
        self.memory().secrets.entry(id.to_owned()).or_default().describe_failed = Some(now);
    }

    /// The secrets of batches whose next rotation is not known, or was asked for long ago.
    pub fn to_describe(&self, together: &[(Ask, Haves)], batches: usize) -> Vec<String> {
        let now = self.now();
        let mut memory = self.memory();
        let mut due = Vec::new();
        for id in together.iter().map(|(ask, _)| &ask.id).collect::<BTreeSet<_>>() {
            let known = memory.secrets.entry(id.clone()).or_default();
            let over = |at: Option<Timestamp>, lasts| at.is_none_or(|at| past(at, now, lasts));
            let old = over(known.described, DESCRIBED_FOR) && over(known.describe_failed, FAILED_FOR);
            if old && over(known.describe_denied, DENIED_FOR) {
                due.push((known.described.max(known.describe_failed), id.clone()));
            }
        }
        due.sort();
        let many = memory.allowance.with(batches, now);
        due.into_iter().take(many).map(|(_, id)| id).collect()
    }

    /// When to look again, because AWS is about to rotate it.
    pub fn again(&self, id: &str) -> Again {
        let now = self.now();
        let next = self.memory().secrets.get(id).and_then(|known| known.next_rotation);
        next.and_then(|date| schedule::around_rotation(date, now)).map_or(Again::Free, Again::After)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicI64, Ordering};

    use super::*;
    use crate::aws_identity::Identity;
    use crate::config::model::AwsStore;
    use crate::store::Senses;
    use crate::store::aws::client::Client;

    /// A reader, and its clock in seconds.
    fn reader() -> (Reader, Arc<AtomicI64>) {
        let second = Arc::new(AtomicI64::new(1_000_000));
        let clock = Arc::clone(&second);
        let senses = Senses {
            clock: Arc::new(move || Timestamp::from_second(clock.load(Ordering::Relaxed)).expect("a time")),
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
        (Reader::new(Client::new("aws".into(), config, senses)), second)
    }

    fn asks(ids: &[&str]) -> Vec<(Ask, Haves)> {
        let ask = |id: &&str| Ask { id: (*id).into(), stage: "AWSCURRENT".into(), version: None };
        ids.iter().map(|id| (ask(id), Haves::new())).collect()
    }

    #[test]
    fn a_describe_that_failed_is_asked_again_after_a_quarter_of_an_hour_and_after_the_others() {
        let (reader, clock) = reader();
        let asks = asks(&["a", "b"]);
        assert_eq!(reader.to_describe(&asks, 1), ["a"]);
        reader.learnt_nothing("a");
        clock.fetch_add(60, Ordering::Relaxed);
        assert_eq!(reader.to_describe(&asks, 1), ["b"]);
        reader.memory().secrets.get_mut("b").expect("known").described = Some(reader.now());
        clock.fetch_add(13 * 60, Ordering::Relaxed);
        assert!(reader.to_describe(&asks, 1).is_empty(), "a failed, and b is described");
        clock.fetch_add(2 * 60, Ordering::Relaxed);
        assert_eq!(reader.to_describe(&asks, 1), ["a"]);
        clock.fetch_add(12 * 3600, Ordering::Relaxed);
        assert_eq!(reader.to_describe(&asks, 1), ["a"], "the longest ago first");
    }

    #[test]
    fn beside_the_fifty_batches_of_a_thousand_secrets_four_are_described_in_however_many_rounds_they_come() {
        for rounds in [vec![50], vec![10; 5], vec![5; 10], vec![3, 7, 3, 7, 1, 9, 2, 8, 4, 6]] {
            let mut allowance = Allowance::default();
            for poll in 0..5 {
                let now = Timestamp::from_second(poll * 300).expect("a time");
                let described: usize = rounds.iter().map(|batches| allowance.with(*batches, now)).sum();
                assert!((4..=5).contains(&described), "{described} in {rounds:?}");
            }
        }
        let mut alone = Allowance::default();
        let described: usize =
            (0..10).map(|poll| alone.with(1, Timestamp::from_second(poll * 300).expect("a time"))).sum();
        assert_eq!(described, 10, "one batch: one in each poll");
    }
}
