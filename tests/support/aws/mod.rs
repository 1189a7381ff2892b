//! AWS Secrets Manager for tests: moto, a server of our own that does as it is told, and the agent on either.
#![allow(dead_code, reason = "every test uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

pub mod model;
pub mod moto;
#[allow(clippy::duplicate_mod, reason = "the one beside it has it, too")]
#[path = "../ports.rs"]
pub mod ports;
pub mod providers;
pub mod proxy;
pub mod queue;
pub mod scripted;
pub mod wire;
pub mod world;
