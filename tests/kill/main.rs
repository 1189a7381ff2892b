//! Kill -9 loses nothing: a real agent with real processes is killed at every step and at random instants, while
//! secrets keep changing. After each restart every file is whole and of one generation, the last change is taken up (or
//! refused, where it is bad), there is exactly one process a target, and nothing half-done lies about.
//!
//! `LEASEHOLD_REQUIRE=all` takes every failpoint and 200 instants; without it a fraction of both.
//! `LEASEHOLD_KILL_SEED=N` repeats the instants of a run as nearly as time can be repeated.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests, too")]

#[path = "../support/agent.rs"]
mod agent;
mod points;
mod proc;
mod random;
mod settled;
mod world;

/// Whether the whole of it is asked for.
fn everything() -> bool {
    std::env::var("LEASEHOLD_REQUIRE").is_ok_and(|value| value == "all")
}

/// Runs each in a thread of its own: they wait more than they work.
fn together<T: Send>(of: impl IntoIterator<Item = T>, run: impl Fn(T) + Sync) {
    let run = &run;
    std::thread::scope(|scope| {
        let threads: Vec<_> = of.into_iter().map(|one| scope.spawn(move || run(one))).collect();
        let panics: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().err()).collect();
        if let Some(panic) = panics.into_iter().next() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// splitmix64.
struct Dice(u64);

impl Dice {
    fn new(of: u64) -> Self {
        let seed = std::env::var("LEASEHOLD_KILL_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| {
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
            now.as_secs()
        });
        eprintln!("LEASEHOLD_KILL_SEED={seed}");
        Self(seed.wrapping_mul(1_000_003).wrapping_add(of))
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}
