//! Faults around the real agent: each is told clearly, leaves the old files intact, and when it goes the agent goes on by
//! itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/endpoint.rs"]
mod endpoint;
#[path = "../support/kit.rs"]
mod kit;

mod clock;
mod disk;
mod process;
mod state;
mod store;
mod template;
