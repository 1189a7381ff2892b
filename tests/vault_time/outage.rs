//! A thousand agents, each with a value of KV and a lease, and what goes wrong with all of them at once.
//!
//! A rate is that of the busiest ten seconds of a stretch, wherever they begin, in requests a second, refused connections
//! included. Steady is the same, of five quiet minutes before.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant as Machine};

use serde_json::json;

use crate::agent::{Agent, DAY, HOUR, POLL, secs};
use crate::fleet::{Site, Terms};
use crate::line::{Kind, Stretch};

const AGENTS: u32 = 1000;
const MINUTE: Duration = Duration::from_secs(60);
const HALF_HOUR: Duration = Duration::from_secs(1800);
const MONTH: Duration = Duration::from_secs(30 * 86_400);
const WINDOW: Duration = Duration::from_secs(10);
/// Tokens and leases of half an hour, which are renewed at 16 to 18 minutes.
const TERMS: Terms = Terms { token: (HALF_HOUR, MONTH), lease: (HALF_HOUR, DAY) };

struct Fleet {
    site: Site,
    agents: Vec<Agent>,
    began: Machine,
}

impl Fleet {
    /// All start at the same moment, and have run for so long.
    async fn after(run: Duration, terms: &Terms) -> Self {
        let began = Machine::now();
        let site = Site::new(terms).await;
        let plan = site.plan();
        let agents = (0..AGENTS).map(|number| site.start(&plan, number)).collect();
        site.pass(run).await;
        Self { site, agents, began }
    }

    fn last(&self, stretch: Duration) -> Stretch {
        let now = self.site.book.now();
        self.site.book.between(now - stretch, now)
    }

    /// Of five quiet minutes, the last ones where nothing else is said.
    fn steady(&self) -> f64 {
        self.steady_of(&self.last(5 * MINUTE))
    }

    fn steady_of(&self, quiet: &Stretch) -> f64 {
        let (mean, peak) = (quiet.mean(), quiet.peak(WINDOW));
        // A poll of 60 s and a lookup of 54 to 60 s each.
        let asked = f64::from(AGENTS) / 60.0 + f64::from(AGENTS) / 57.0;
        assert!((mean / asked - 1.0).abs() < 0.15, "{mean} a second, not {asked}");
        assert!(peak < 1.3 * mean, "a fleet that started at once is not spread out: {peak} of {mean} a second");
        peak
    }

    fn say(&self, what: &str, steady: f64, stretch: &Stretch) {
        eprintln!(
            "{what}: steady {steady:.1}/s; then {} requests, peak {:.1}/s in 10 s ({:.2} times), {:.0}/s in 1 s; {:?}",
            stretch.total(),
            stretch.peak(WINDOW),
            stretch.peak(WINDOW) / steady,
            stretch.peak(secs(1)),
            self.began.elapsed()
        );
        for kind in
            [Kind::Login, Kind::Mint, Kind::RenewLease, Kind::RenewToken, Kind::Lookup, Kind::Metadata, Kind::Read]
        {
            eprintln!("    {kind:?}: {} in all, {:?} each", stretch.of(kind), stretch.each(AGENTS, Some(kind)));
        }
    }

    async fn end(self) {
        for agent in self.agents {
            agent.stop().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_fleet_that_starts_at_one_moment_asks_each_thing_once_and_is_spread_out_from_then_on() {
    let fleet = Fleet::after(6 * MINUTE, &TERMS).await;
    let book = &fleet.site.book;
    let start = book.between(Duration::ZERO, secs(2));
    for (kind, times) in [(Kind::Login, 1), (Kind::Mounts, 2), (Kind::Read, 1), (Kind::Mint, 1)] {
        assert_eq!(start.each(AGENTS, Some(kind)), (times, times), "{kind:?}");
    }
    assert_eq!(start.total(), 5 * AGENTS as usize);
    let (steady, settling) = (fleet.steady(), book.between(secs(2), 6 * MINUTE));
    fleet.say("start at once", steady, &settling);
    assert!(settling.peak(WINDOW) < 1.5 * steady);
    assert!(fleet.agents.iter().all(|agent| agent.snapshots() == 1));
    fleet.end().await;
}

async fn outage(before: Duration, how: &str) {
    let fleet = Fleet::after(before, &TERMS).await;
    let steady = fleet.steady();
    let turn = |fleet: &Fleet, on: bool| match how {
        "refused" => fleet.site.book.cut.store(on, Ordering::Relaxed),
        _ => fleet.site.fake.seal(on),
    };
    turn(&fleet, true);
    fleet.site.pass(10 * MINUTE).await;
    let during = fleet.last(10 * MINUTE);
    fleet.say(&format!("{how}, during"), steady, &during);
    // Three failures open the circuit, then one tries again after 1 to 60 s.
    assert!(during.each(AGENTS, None).1 <= 45, "{:?}", during.each(AGENTS, None));
    let first_minute = fleet.site.book.between(during.from, during.from + MINUTE);
    assert_eq!(first_minute.peak(WINDOW), during.peak(WINDOW), "the worst is over after a minute");
    assert_eq!((during.of(Kind::Login), during.of(Kind::Mint)), (0, 0));
    let failing = |agent: &Agent| agent.watch.status().iter().any(|secret| secret.failing_since.is_some());
    assert!(fleet.agents.iter().all(failing), "the status says since when");

    turn(&fleet, false);
    fleet.site.pass(10 * MINUTE).await;
    let after = fleet.last(10 * MINUTE);
    fleet.say(&format!("{how}, after"), steady, &after);
    assert_eq!((after.of(Kind::Login), after.of(Kind::Mint), after.of(Kind::Read)), (0, 0, 0), "what lived on is kept");
    assert!(after.peak(WINDOW) <= 3.0 * steady);
    assert!(after.each(AGENTS, Some(Kind::RenewLease)).1 <= 1 && after.each(AGENTS, Some(Kind::RenewToken)).1 <= 1);
    let end = fleet.site.book.now();
    let up = end - 10 * MINUTE;
    let back = |within: Duration| fleet.site.book.between(up, up + within).agents(Kind::Metadata);
    eprintln!("    back within a minute: {}, within two: {}", back(MINUTE), back(2 * MINUTE));
    assert!(back(MINUTE) >= AGENTS as usize * 9 / 10, "most were back within a minute");
    assert_eq!(back(2 * MINUTE), AGENTS as usize, "all were back within two");
    assert!(!fleet.agents.iter().any(failing));
    assert_eq!(fleet.site.leases().await.len(), AGENTS as usize);
    assert!(fleet.agents.iter().all(|agent| agent.snapshots() == 1));
    fleet.end().await;
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_ten_minutes_mints_nothing_logs_nobody_in_and_the_fleet_comes_back_spread_out() {
    outage(6 * MINUTE, "refused").await;
}

#[tokio::test(start_paused = true)]
async fn a_seal_while_every_token_and_lease_is_due_for_renewal_is_no_worse() {
    outage(13 * MINUTE, "sealed").await;
}

#[tokio::test(start_paused = true)]
async fn leases_revoked_all_at_once_are_replaced_within_lease_check_and_spread_out() {
    let fleet = Fleet::after(6 * MINUTE, &TERMS).await;
    let steady = fleet.steady();
    let path = format!("{}/creds/app", fleet.site.database);
    fleet.site.server.revoke_prefix(&path).await;
    fleet.site.pass(POLL + secs(4)).await;
    let noticed = fleet.last(POLL + secs(4));
    assert_eq!(noticed.each(AGENTS, Some(Kind::Mint)), (1, 1), "each is replaced once, within lease_check and 3 s");
    fleet.site.pass(10 * MINUTE).await;
    let after = fleet.last(11 * MINUTE + secs(4));
    fleet.say("revoked by prefix", steady, &after);
    assert_eq!((after.of(Kind::Login), after.of(Kind::Mint)), (0, AGENTS as usize));
    assert!(after.peak(WINDOW) <= 3.0 * steady);
    assert_eq!(fleet.site.leases().await.len(), AGENTS as usize);
    assert!(fleet.agents.iter().all(|agent| agent.snapshots() == 2));
    fleet.end().await;
}

#[tokio::test(start_paused = true)]
async fn tokens_that_end_in_an_outage_cost_one_login_and_one_lease_each_after_it() {
    let fleet = Fleet::after(10 * MINUTE, &Terms { token: (10 * MINUTE, DAY), lease: (HOUR, DAY) }).await;
    // Before the first renewals: the tokens of a fleet that starts at once are renewed at 5.3 to 6 minutes.
    let steady = fleet.steady_of(&fleet.site.book.between(secs(10), 310 * secs(1)));
    fleet.site.book.cut.store(true, Ordering::Relaxed);
    fleet.site.pass(10 * MINUTE).await;
    let during = fleet.last(10 * MINUTE);
    fleet.say("tokens end, during", steady, &during);
    assert!(during.each(AGENTS, None).1 <= 45, "{:?}", during.each(AGENTS, None));
    assert_eq!(fleet.site.leases().await.len(), 0, "the leases ended with their tokens");
    fleet.site.book.cut.store(false, Ordering::Relaxed);
    fleet.site.pass(10 * MINUTE).await;
    let after = fleet.last(10 * MINUTE);
    fleet.say("tokens end, after", steady, &after);
    assert_eq!(after.each(AGENTS, Some(Kind::Login)), (1, 1));
    assert_eq!(after.each(AGENTS, Some(Kind::Mint)), (1, 1));
    assert!(after.peak(WINDOW) <= 3.0 * steady);
    assert_eq!(fleet.site.leases().await.len(), AGENTS as usize);
    fleet.site.write(json!("another")).await;
    fleet.site.pass(2 * MINUTE).await;
    assert!(fleet.agents.iter().all(|agent| agent.snapshots() >= 3), "and all go on");
    fleet.end().await;
}
