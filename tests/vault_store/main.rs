//! Vault's store through the trait, against the fake: over sockets where the wire matters, else in memory under paused time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

#[path = "../support/vault/mod.rs"]
mod vault;

mod aws;
mod leases;
mod limits;
mod logins;
mod reads;
mod wire;
mod world;
