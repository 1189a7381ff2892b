//! `health.type: command`: a command exits 0.

use std::time::Duration;

use futures_util::future::BoxFuture;

use super::{Attempt, Probe};
use crate::process::{self, Inherit, RunError};
use crate::verdict::show;

/// Runs a program without a shell, in a process group of its own that is killed when the attempt ends or is cut off.
/// Its output is discarded: it may hold values, so no reason quotes it.
pub struct CommandProbe {
    run: Vec<String>,
    timeout: Duration,
    inherit: Inherit,
}

impl CommandProbe {
    /// A probe that runs `run` (program and arguments).
    pub fn new(run: Vec<String>, timeout: Duration, inherit: Inherit) -> Self {
        Self { run, timeout, inherit }
    }
}

impl Probe for CommandProbe {
    fn attempt(&self) -> BoxFuture<'_, Attempt> {
        Box::pin(async {
            let Some(program) = self.run.first() else {
                return Attempt::Fail("command: no program is named".into());
            };
            match process::run(&self.run, self.timeout, &self.inherit).await {
                Ok(outcome) if outcome.exit.success() => Attempt::Pass,
                Ok(outcome) => Attempt::Fail(format!("command {program}: {}", ended(outcome.exit))),
                Err(error) => Attempt::Fail(format!("command {program}: {}", reason(&error))),
            }
        })
    }
}

fn ended(exit: process::Exit) -> String {
    match exit {
        process::Exit::Code(code) => format!("exit code {code}, expected 0"),
        process::Exit::Signal(signal) => format!("ended by signal {signal}"),
    }
}

/// Not the error's own words: those quote what the program wrote.
fn reason(error: &RunError) -> String {
    match error {
        RunError::Start { hint, .. } => hint.clone(),
        RunError::TimedOut { timeout, .. } => format!("no answer within {}", show(*timeout)),
        RunError::Wait { source, .. } => format!("cannot be waited for: {source}"),
    }
}
