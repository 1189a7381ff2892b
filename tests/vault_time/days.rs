//! One agent for days and months.

use std::time::Instant as Machine;

use serde_json::json;

use crate::agent::{DAY, HOUR, POLL, secs};
use crate::fleet::{Site, Terms};
use crate::line::Kind;
use crate::world::name;

#[tokio::test(start_paused = true)]
async fn two_days_of_database_credentials_are_two_leases_one_login_and_a_handful_of_renewals() {
    let terms = Terms { token: (100 * HOUR, 700 * HOUR), lease: (24 * HOUR, 48 * HOUR) };
    let site = Site::new(&terms).await;
    let mut plan = site.plan();
    plan.secrets.retain(|(name, _)| name == "db");
    plan.commit = 20 * secs(60);
    let agent = site.start(&plan, 0);
    site.pass(secs(10)).await;
    let first = site.leases().await;
    assert_eq!(first.len(), 1);

    // Until its target was given the second.
    while agent.snapshots() < 2 && site.book.now() < 49 * HOUR {
        site.pass(secs(60)).await;
    }
    let replaced = site.book.now();
    assert!(replaced > 40 * HOUR && replaced < 48 * HOUR, "replaced after {replaced:?}");
    let both = site.leases().await;
    assert!(both.len() == 2 && both.contains(&first[0]), "the old one lives until the new one is committed: {both:?}");
    let given = agent.given.lock().unwrap().clone();
    for snapshot in &given {
        let fields = &snapshot.secrets[&name("db")].fields;
        let text = |field: &str| String::from_utf8(fields[field].as_text().unwrap().expose().to_vec()).unwrap();
        assert!(site.fake.database_accepts(&text("username"), &text("password")));
    }
    site.pass(19 * secs(60)).await;
    assert_eq!(site.leases().await.len(), 2, "its target does not stand on the new one yet");
    site.pass(3 * secs(60)).await;
    let left = site.leases().await;
    assert!(left.len() == 1 && left != first, "the old one is revoked once nobody stands on it: {left:?}");

    site.pass((48 * HOUR).saturating_sub(site.book.now())).await;
    let all = site.book.all();
    let of = |kind| all.of(kind);
    assert_eq!((of(Kind::Login), of(Kind::Mint), of(Kind::Revoke), of(Kind::Mounts)), (1, 2, 1, 1));
    assert_eq!((of(Kind::Read), of(Kind::Metadata), of(Kind::Other)), (0, 0, 0));
    assert_eq!(agent.snapshots(), 2);
    // 24 h go on at 53 to 60 % of what is left, until a grant is cut short by max_ttl; the second lease lasts over the end.
    let renewals = of(Kind::RenewLease);
    assert!((2..=4).contains(&renewals), "{renewals} renewals");
    // 100 h of token: one look after it, at 53 to 60 h.
    assert_eq!(of(Kind::RenewToken), 0);
    // A lookup every 54 to 60 s, twice as many while there are two.
    let lookups = of(Kind::Lookup) as f64;
    let (least, most) = ((48 * HOUR).as_secs_f64() / 60.0, (48 * HOUR + secs(21 * 60)).as_secs_f64() / 54.0);
    assert!(lookups >= least - 1.0 && lookups <= most + 3.0, "{lookups} lookups, not {least} to {most}");
    eprintln!("48 h of database/creds: {} requests, {renewals} renewals, {lookups} lookups", all.total());
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn ninety_days_of_kv_move_plaintext_only_when_it_changed() {
    let began = Machine::now();
    let terms = Terms { token: (24 * HOUR, 30 * DAY), lease: (HOUR, HOUR) };
    let site = Site::new(&terms).await;
    let mut plan = site.plan();
    plan.secrets.retain(|(name, _)| name == "kv");
    let agent = site.start(&plan, 0);
    let (days, writes) = (90, 9);
    for n in 1..=writes {
        site.pass(9 * DAY + HOUR).await;
        let before = agent.snapshots();
        site.write(json!(format!("value {n}"))).await;
        site.pass(POLL.mul_f64(1.1) + secs(5)).await;
        assert_eq!(agent.snapshots(), before + 1, "seen within one poll");
    }
    site.pass((days * DAY).saturating_sub(site.book.now())).await;

    let all = site.book.all();
    let of = |kind| all.of(kind);
    assert_eq!((of(Kind::Mint), of(Kind::Revoke), of(Kind::Lookup), of(Kind::RenewLease)), (0, 0, 0, 0));
    assert_eq!((of(Kind::Mounts), of(Kind::Other)), (1, 0));
    assert_eq!(of(Kind::Read), 1 + writes, "the value itself is read at the start and when it changed");
    assert_eq!(agent.snapshots(), 1 + writes);
    let polls = of(Kind::Metadata) as f64;
    let expected = f64::from(days) * DAY.as_secs_f64() / POLL.as_secs_f64();
    assert!((polls / expected - 1.0).abs() < 0.01, "{polls} polls, not {expected}");
    // A token lasts 30 days less a half of its 24 h at the most, and is renewed at 53 to 60 % of them.
    let (logins, renewals) = (of(Kind::Login), of(Kind::RenewToken));
    assert!((4..=5).contains(&logins), "{logins} logins");
    let renewed_every = |share: f64| f64::from(days) / share;
    assert!((renewed_every(0.6)..=renewed_every(8.0 / 15.0)).contains(&(renewals as f64)), "{renewals} renewals");
    eprintln!(
        "90 days of KV: {} requests ({polls} metadata, {} data, {logins} logins, {renewals} renewals) in {:?}",
        all.total(),
        of(Kind::Read),
        began.elapsed()
    );
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_secrets_ask_in_an_hour_what_the_documentation_says() {
    let (kv, leases) = (980_u32, 20_u32);
    let site = Site::new(&Terms { token: (HOUR, 30 * DAY), lease: (HOUR, 30 * DAY) }).await;
    let mut plan = site.plan();
    plan.secrets.clear();
    for n in 0..kv {
        site.server.put(&site.kv, &format!("app-{n}"), json!({"password": n})).await;
        plan.secrets.push((format!("kv-{n}"), format!("{}/app-{n}", site.kv)));
    }
    plan.secrets.extend((0..leases).map(|n| (format!("db-{n}"), format!("{}/creds/app", site.database))));
    let agent = site.start(&plan, 0);
    site.pass(secs(600) + HOUR).await;
    let now = site.book.now();
    let hour = site.book.between(now - HOUR, now);
    // At a poll of 60 s, a lease_check of 60 s and an hour for leases and the token.
    let table = [
        (Kind::Metadata, f64::from(kv) * 3600.0 / 60.0),
        (Kind::Lookup, f64::from(leases) * 3600.0 / 57.0),
        (Kind::RenewLease, f64::from(leases) / (0.85 * 2.0 / 3.0)),
        (Kind::RenewToken, 1.0 / (0.85 * 2.0 / 3.0)),
    ];
    for (kind, expected) in table {
        let asked = hour.of(kind) as f64;
        eprintln!("1,000 secrets, an hour: {kind:?} {asked}, expected {expected:.0}");
        let slack = (expected * 0.02).max(f64::from(leases) * 0.3).max(1.0);
        assert!((asked - expected).abs() <= slack, "{kind:?}: {asked}, not {expected}");
    }
    assert_eq!(hour.total(), table.iter().map(|(kind, _)| hour.of(*kind)).sum::<usize>(), "and nothing else");
    eprintln!("1,000 secrets, an hour: {} requests, {:.1}/s at most in 10 s", hour.total(), hour.peak(secs(10)));
    let start = site.book.between(secs(0), secs(600));
    assert_eq!((start.of(Kind::Login), start.of(Kind::Mounts)), (1, 2));
    assert_eq!((start.of(Kind::Read), start.of(Kind::Mint)), (kv as usize, leases as usize));
    agent.stop().await;
}
