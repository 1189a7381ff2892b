//! Vault for tests: a fake one, a real one, and what a test does to either as an administrator.
#![allow(dead_code, reason = "every test uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests fail by panicking")]

pub mod fake;
pub mod http;
#[allow(clippy::duplicate_mod, reason = "the one beside it has it, too")]
#[path = "../ports.rs"]
pub mod ports;
pub mod postgres;
pub mod real;
pub mod server;
pub mod wire;
