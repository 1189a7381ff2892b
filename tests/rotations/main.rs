//! Rotations of the real agent, end to end: what is taken up, what is refused, what goes back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/endpoint.rs"]
mod endpoint;
#[path = "../support/kit.rs"]
mod kit;

mod hold;
mod refused;
mod running;
mod unhealthy;
mod what_changes;
mod when;
