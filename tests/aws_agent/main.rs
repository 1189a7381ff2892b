//! The real agent with a real child process on moto.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests, too")]

#[path = "../support/agent.rs"]
mod agent;
#[path = "../support/aws/mod.rs"]
mod aws;
#[path = "../support/vault/mod.rs"]
mod vault;

#[allow(dead_code, reason = "`tests/leaks` uses the rest")]
#[path = "../leaks/canary.rs"]
mod canary;
mod commands;
mod deletion;
mod events;
mod kinds;
mod labels;
mod leaks;
mod restarts;
mod runbook;
mod with_vault;
