//! The agent's own life: start, SIGHUP, signals, children, the end; and what it shows of itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/endpoint.rs"]
mod endpoint;
#[path = "../support/kit.rs"]
mod kit;
#[path = "../support/ports.rs"]
mod ports;

mod admin;
mod child;
mod codes;
mod reload;
mod render;
mod stopping;
mod systemd;
