//! From a config file to everything that runs.

mod announce;
mod building;
pub mod check;
mod counting;
pub mod once;
mod operations;
pub mod prepare;
pub mod problem;
mod readings;
mod running;
mod shutdown;

use std::path::PathBuf;

use crate::hardening::Original;
use crate::telemetry::mask;
use problem::Class;

/// What `agent run` and `agent render` are told.
pub struct Options {
    /// The config file.
    pub config: PathBuf,
    /// `CMD ARG…` of `agent run -- CMD`, else empty.
    pub command: Vec<String>,
    /// False: target processes are left alone (`agent render`).
    pub reload_targets: bool,
    /// What the agent had before it was hardened.
    pub original: Original,
}

/// The agent could not begin.
#[derive(Debug)]
pub struct Failed {
    /// sysexits class.
    pub class: Class,
    /// For the operator; not masked.
    pub message: String,
}

impl Failed {
    fn new(class: Class, message: impl std::fmt::Display) -> Self {
        Self { class, message: message.to_string() }
    }

    fn of_file(error: &crate::durable::FileError) -> Self {
        Self::new(Class::of_file(error), error)
    }
}

/// Runs until told to stop, and answers the exit code: with a supervised process its code, or 128+N for signal N.
///
/// Must be called on the main thread, in a current-thread runtime, at most once.
pub async fn run(options: Options) -> u8 {
    match building::build(&options).await {
        Ok(agent) => agent.run().await,
        Err(failed) => {
            tracing::error!("{}", mask::display(&failed.message));
            failed.class.code()
        }
    }
}
