//! What goes wrong with the fake when a test asks for it, and what it counts.

use std::time::Duration;

use serde_json::json;

use crate::get;
use crate::vault::fake::clock::Clock;
use crate::vault::fake::counts::Kind;
use crate::vault::fake::faults::Fault;
use crate::vault::fake::{Fake, ROOT};
use crate::vault::http;
use crate::vault::server::{FakeServer, VaultServer};
use crate::vault::wire::Request;

const HEALTHY: &str = "sys/mounts";

#[tokio::test]
async fn a_fault_meets_the_requests_that_it_is_scripted_for() {
    let server = FakeServer::new(Fake::new());
    let faults = server.fake.faults();
    faults.next_on("GET", "sys/mounts", 2, Fault::status(412, "required index state not present"));
    get(&server, ROOT, HEALTHY).await.is(412);
    get(&server, ROOT, "auth/token/lookup-self").await.is(200);
    get(&server, ROOT, HEALTHY).await.is(412);
    get(&server, ROOT, HEALTHY).await.is(200);
    faults.next(1, Fault::Redirect("http://elsewhere.test/v1/x".into()));
    assert_eq!(get(&server, ROOT, HEALTHY).await.is(307).header("location"), Some("http://elsewhere.test/v1/x"));
    faults.next(1, Fault::Malformed);
    assert!(get(&server, ROOT, HEALTHY).await.is(200).value().is_null());
    for fault in [Fault::Cut(10), Fault::Close, Fault::CloseAfter] {
        // Without a pool of connections, nothing is sent anew behind our back.
        faults.next(1, fault.clone());
        let request = Request::new("GET", HEALTHY).token(ROOT);
        assert!(http::try_send(server.address(), request).await.is_err(), "{fault:?}");
    }
    faults.always(Fault::Hang);
    let request = http::try_send(server.address(), Request::new("GET", HEALTHY).token(ROOT));
    assert!(tokio::time::timeout(Duration::from_millis(200), request).await.is_err());
    faults.clear();
    get(&server, ROOT, HEALTHY).await.is(200);
}

#[tokio::test]
async fn a_sealed_server_a_standby_and_a_stale_one() {
    let server = FakeServer::new(Fake::new());
    let admin: &dyn VaultServer = &server;
    let mount = admin.kv(2).await;
    for k in ["1", "2", "3"] {
        admin.put(&mount, "app", json!({"k": k})).await;
    }
    let at = format!("{mount}/data/app");
    server.fake.seal(true);
    assert_eq!(get(admin, ROOT, &at).await.is(503).error(), "Vault is sealed");
    get(admin, ROOT, "sys/health").await.is(503);
    server.fake.seal(false);
    server.fake.standby(Some(473));
    get(admin, ROOT, &at).await.is(473);
    server.fake.standby(None);
    server.fake.lag(1);
    assert_eq!(get(admin, ROOT, &at).await.is(200).number("/data/metadata/version"), 2);
    server.fake.lag(0);
    assert_eq!(get(admin, ROOT, &at).await.is(200).number("/data/metadata/version"), 3);
    server.fake.quota(Some(0.001), true);
    get(admin, ROOT, &at).await;
    assert_eq!(get(admin, ROOT, &at).await.is(429).header("retry-after"), None);
}

#[tokio::test(start_paused = true)]
async fn two_days_of_a_lease_pass_in_paused_time_without_a_socket() {
    let server = FakeServer::new(Fake::with(Clock::tokio(), false));
    let (admin, fake): (&dyn VaultServer, &Fake) = (&server, &server.fake);
    let mount = admin.database_mount().await.unwrap();
    admin.database_role(&mount, "app", "24h", "48h").await;
    let ask = |method: &str, path: &str| Request::new(method, path).token(ROOT);
    let lease = fake.answer(ask("GET", &format!("{mount}/creds/app"))).await.is(200).text("/lease_id");
    let mut granted = Vec::new();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(10 * 3600)).await;
        let renewal = fake.answer(ask("PUT", "sys/leases/renew").body(&json!({"lease_id": lease}))).await;
        granted.push(renewal.at("/lease_duration").as_i64().map_or(0, |seconds| seconds / 3600));
    }
    assert_eq!(granted, [24, 24, 18, 8, 0], "durations that shrink, then none");
    assert!(fake.live_leases().is_empty());
    assert_eq!((fake.counts().of(Kind::Mint), fake.counts().of(Kind::RenewLease)), (1, 5));
    assert_eq!(fake.counts().peak(Duration::from_secs(11 * 3600), |a| a.kind == Kind::RenewLease), 2);
}
