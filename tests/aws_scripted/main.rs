//! The real agent on a Secrets Manager that fails as it is told, with the calls counted.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests, too")]

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/aws/mod.rs"]
mod aws;

mod announced;
mod batches;
mod chain;
mod consistency;
mod credentials;
mod outages;
mod proxies;
mod throttling;

use aws::scripted::Scripted;
use aws::world::Setup;
use serde_json::json;

/// A server with a secret `app` that holds `of-1`.
fn server() -> Scripted {
    let server = Scripted::start();
    put(&server, "app", "of-1");
    server
}

/// Puts `key` of a secret; answers the version's id.
fn put(server: &Scripted, name: &str, key: &str) -> String {
    server.put(name, &json!({"key": key}))
}

/// Secrets of these ids, each by its id's name, polled every second; a line of the file each.
fn many(ids: &[&str]) -> Setup {
    let of = |id: &&str| ((*id).to_owned(), json!({"store": "aws", "id": id, "poll": "1s"}));
    let conf: String = ids.iter().map(|id| format!("{{{{ secrets.{id}.key }}}}\n")).collect();
    Setup::new(ids.iter().map(of).collect(), &conf)
}
