//! The whole agent as a unit of a real systemd, with targets that are units: in a container that the tests boot.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

#[path = "systemd_agent/house.rs"]
mod house;
#[path = "support/nspawn.rs"]
mod nspawn;

#[path = "systemd_agent/environment.rs"]
mod environment;
#[path = "systemd_agent/failures.rs"]
mod failures;
#[path = "systemd_agent/order.rs"]
mod order;
#[path = "systemd_agent/protocol.rs"]
mod protocol;
#[path = "systemd_agent/turmoil.rs"]
mod turmoil;
