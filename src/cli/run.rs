//! `agent run`.

use super::output::Failure;
use super::{Context, USAGE, wait_for};
use crate::agent;

const EXAMPLES: &str = "\
Examples:
  agent run -c /etc/leasehold/agent.yaml        a service beside the process
  agent run -- litellm --config config.yaml     the process's parent, as in a container";

/// Run until told to stop: watch the stores, and rotate what changes
///
/// Takes every target through a rotation when its secrets, templates or config change. HUP reads the config anew; TERM and
/// INT stop.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Run {
    /// Supervise CMD as the only target's process, with the signals and the exit code that an init process owes its
    /// container
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(super) fn run(arguments: Run, context: &Context) -> Result<u8, Failure> {
    // `agent run -- $CMD` with CMD empty would quietly supervise nothing.
    if arguments.command.is_empty() && std::env::args_os().next_back().is_some_and(|last| last == "--") {
        return Err(Failure::new(USAGE, "nothing follows `--`: name a command, or leave `--` out"));
    }
    start(context, arguments.command, true)
}

/// Starts the agent; `agent render` does so without touching a process.
pub(super) fn start(context: &Context, command: Vec<String>, reload_targets: bool) -> Result<u8, Failure> {
    let options =
        agent::Options { config: context.config.clone(), command, reload_targets, original: context.original };
    wait_for(agent::run(options))
}
