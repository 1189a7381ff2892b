//! The commands: one file each. They read arguments, ask, print, and answer an exit code; they decide nothing.

mod arguments;
mod check;
mod completions;
mod history;
mod man;
mod output;
mod refresh;
mod release;
mod render;
mod rollback;
mod run;
mod schema;
mod status;
mod table;
mod words;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use tracing::level_filters::LevelFilter;

use crate::config;
use crate::control::{Client, ControlError};
use crate::hardening::{Original, end_on_broken_pipe};
use crate::telemetry::{logging, mask};

pub use arguments::{Arguments, command};
use arguments::{Command, Level};
use output::Failure;

/// Bound on the file work that is under way when a command is done.
const GOODBYE: Duration = Duration::from_secs(5);
/// EX_USAGE of sysexits.h.
const USAGE: u8 = 64;

/// What a command needs beside its own arguments.
struct Context {
    config: PathBuf,
    original: Original,
}

/// Does what the command line says; the answer is the exit code. `original`: what the process had before it was hardened.
pub fn main(original: Original) -> u8 {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors, and go to standard output.
            let _ = error.print();
            return if error.use_stderr() { USAGE } else { 0 };
        }
    };
    let Arguments { config, log_format, log_level, command } = arguments;
    let stays = match &command {
        Command::Run(_) => true,
        Command::Render(render) => !render.once,
        _ => false,
    };
    let level = log_level.unwrap_or(if stays { Level::Info } else { Level::Warn });
    logging::init(log_format.into(), LevelFilter::from(level));
    if !stays {
        // `agent status | head` ends quietly. Where that cannot be had, it ends with a message.
        let _ = end_on_broken_pipe();
    }
    match dispatch(command, &Context { config, original }) {
        Ok(code) => code,
        Err(Failure { exit, message }) => {
            output::complain(&message);
            exit
        }
    }
}

fn dispatch(command: Command, context: &Context) -> Result<u8, Failure> {
    match command {
        Command::Run(arguments) => run::run(arguments, context),
        Command::Render(arguments) => render::run(arguments, context),
        Command::Check(arguments) => check::run(&arguments, context),
        Command::Status(arguments) => status::run(&arguments, context),
        Command::History(arguments) => history::run(&arguments, context),
        Command::Refresh(arguments) => refresh::run(arguments, context),
        Command::Rollback(arguments) => rollback::run(arguments, context),
        Command::Release(arguments) => release::run(arguments, context),
        Command::Schema => schema::run(),
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
    }
}

fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Carries out what waits for more than one thing, on one thread.
fn wait_for<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(70, format!("cannot start: {error}")))?;
    let done = runtime.block_on(work);
    // File work on a disk that hangs must not keep a process that is done.
    runtime.shutdown_timeout(GOODBYE);
    Ok(done)
}

impl Context {
    /// Where the agent's state is, also where the config is not sound just now.
    fn state_dir(&self) -> Result<PathBuf, Failure> {
        state_dir(&self.config)
    }

    /// A connection to the agent.
    fn agent(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&self.state_dir()?)?)
    }
}

fn state_dir(file: &Path) -> Result<PathBuf, Failure> {
    if let Some(path) = config::state_dir(file, &environment) {
        return Ok(path);
    }
    match config::load(file, &environment) {
        Ok(loaded) => Ok(loaded.config.state_dir),
        Err(faults) => Err(Failure::new(78, faults.to_string())),
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        Self::new(error.exit_code(), mask::display(&error))
    }
}
