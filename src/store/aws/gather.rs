//! Reads that begin together are asked together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use tokio::time::Instant;

/// How long a round waits for another to join. Those that are due together come in one turn of the loop, or, where more
/// are due than may be under way, one after another as those before them end.
const WINDOW: Duration = Duration::from_millis(10);
/// How long it waits for all of them.
const LONGEST: Duration = Duration::from_millis(250);

/// What is asked for: one label or version of one secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Ask {
    /// Name or ARN.
    pub id: String,
    /// The label; AWSCURRENT unless asked otherwise.
    pub stage: String,
    /// A version instead of a label.
    pub version: Option<String>,
}

/// The versions that those who ask have; None where one has none.
pub(super) type Haves = BTreeSet<Option<String>>;
/// All of a round.
pub(super) type Members = BTreeMap<Ask, Haves>;

type Round<T> = BoxFuture<'static, Arc<T>>;

/// The round that can still be joined.
pub(super) struct Gathering<T> {
    open: Mutex<Open<T>>,
}

struct Open<T> {
    members: Members,
    round: Option<WeakShared<Round<T>>>,
}

impl<T: Send + Sync + 'static> Gathering<T> {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { open: Mutex::new(Open { members: Members::new(), round: None }) })
    }

    /// Joins the round that is about to begin, or opens one, which `run` carries out. It goes on for as long as anybody
    /// waits for it.
    pub fn join<F>(self: &Arc<Self>, ask: Ask, have: Option<String>, run: F) -> Shared<Round<T>>
    where
        F: FnOnce(Members) -> BoxFuture<'static, T> + Send + 'static,
    {
        let mut open = self.lock();
        let joined = open.round.as_ref().and_then(WeakShared::upgrade);
        if joined.is_none() {
            // Whoever asked for these has gone.
            open.members.clear();
        }
        open.members.entry(ask).or_default().insert(have);
        if let Some(round) = joined {
            return round;
        }
        let gathering = Arc::clone(self);
        let round: Round<T> = Box::pin(async move {
            gathering.gathered().await;
            let members = gathering.close();
            Arc::new(run(members).await)
        });
        let round = round.shared();
        open.round = round.downgrade();
        round
    }

    /// Waits until no other joins any more.
    async fn gathered(&self) {
        let until = Instant::now() + LONGEST;
        let mut joined = 0;
        while Instant::now() < until {
            let now = self.lock().members.len();
            if now == joined {
                return;
            }
            joined = now;
            tokio::time::sleep(WINDOW).await;
        }
    }

    fn close(&self) -> Members {
        let mut open = self.lock();
        open.round = None;
        std::mem::take(&mut open.members)
    }

    fn lock(&self) -> MutexGuard<'_, Open<T>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn ask(id: &str) -> Ask {
        Ask { id: id.into(), stage: "AWSCURRENT".into(), version: None }
    }

    #[tokio::test(start_paused = true)]
    async fn reads_that_begin_together_are_one_round_and_later_ones_another() {
        let gathering: Arc<Gathering<Vec<String>>> = Gathering::new();
        let run = |members: Members| -> BoxFuture<'static, Vec<String>> {
            Box::pin(async move {
                tokio::time::sleep(Duration::from_secs(1)).await;
                members.into_keys().map(|ask| ask.id).collect()
            })
        };
        let (a, b) = (gathering.join(ask("a"), None, run), gathering.join(ask("b"), Some("1".into()), run));
        let late = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            gathering.join(ask("c"), None, run).await
        };
        let (a, b, c) = tokio::join!(a, b, late);
        assert_eq!((&*a, &*b, &*c), (&vec!["a".to_owned(), "b".to_owned()], &*a, &vec!["c".to_owned()]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_waits_for_those_that_come_one_after_another_but_not_for_ever() {
        let gathering: Arc<Gathering<usize>> = Gathering::new();
        let rounds = Arc::new(AtomicUsize::new(0));
        let join = |n: u32| {
            let (gathering, rounds) = (Arc::clone(&gathering), Arc::clone(&rounds));
            async move {
                tokio::time::sleep(WINDOW * n * 4 / 5).await;
                let run = move |members: Members| -> BoxFuture<'static, usize> {
                    rounds.fetch_add(1, Ordering::Relaxed);
                    Box::pin(async move { members.len() })
                };
                *gathering.join(ask(&n.to_string()), None, run).await
            }
        };
        let joined = futures_util::future::join_all((0..20).map(join)).await;
        assert_eq!((joined, rounds.swap(0, Ordering::Relaxed)), (vec![20; 20], 1));
        let joined = futures_util::future::join_all((0..1000).map(join)).await;
        let many = rounds.load(Ordering::Relaxed);
        assert!(many >= 25 && joined.iter().all(|members| *members <= 40), "{many} rounds");
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_everybody_left_asks_for_nothing_and_stands_in_nobodys_way() {
        let gathering: Arc<Gathering<usize>> = Gathering::new();
        let run = |members: Members| -> BoxFuture<'static, usize> { Box::pin(async move { members.len() }) };
        drop(gathering.join(ask("a"), None, run));
        assert_eq!(*gathering.join(ask("b"), None, run).await, 1);
    }
}
