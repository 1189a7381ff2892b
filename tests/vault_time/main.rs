//! Days, months and whole fleets in simulated time: the real store and the real watch over a wire in memory. Asserted is what
//! all of it costs the server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests, too")]

mod agent;
mod days;
mod fleet;
mod line;
mod outage;
#[path = "../support/vault/mod.rs"]
mod vault;
#[path = "../watch/world.rs"]
#[allow(dead_code, reason = "only its configs are used here")]
mod world;
