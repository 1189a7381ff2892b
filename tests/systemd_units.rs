//! What `systemd/install.sh` puts in place, in a real systemd: the agent's unit beside a stand-in for LiteLLM.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

#[path = "support/nspawn.rs"]
mod nspawn;
#[path = "systemd_units/site.rs"]
mod site;

#[path = "systemd_units/installing.rs"]
mod installing;
#[path = "systemd_units/permissions.rs"]
mod permissions;
#[path = "systemd_units/rotating.rs"]
mod rotating;
#[path = "systemd_units/surviving.rs"]
mod surviving;
