//! The real agent with a real child process on a Vault: the fake always, and a real `vault` or `bao` where `VAULT_BIN`
//! names one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests, too")]

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/vault/mod.rs"]
mod vault;

#[allow(dead_code, reason = "`tests/leaks` uses the rest")]
#[path = "../leaks/canary.rs"]
mod canary;
mod changes;
mod kills;
mod leaks;
mod leases;
mod outages;
mod restarts;
mod world;
