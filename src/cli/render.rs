//! `agent render`.

use std::time::Duration;

use super::output::{Failure, faults, print, print_json};
use super::{Context, environment, run, wait_for};
use crate::agent::once;
use crate::config;
use crate::telemetry::mask;

const EXAMPLES: &str = "\
Examples:
  agent render                                  keep the files fresh
  agent render --once --wait 60s                before a process starts, in CI, from cron
  agent render --once --dry-run --target app    what would change, every secret masked";

/// Keep the files fresh, or write them once; never touch a process
///
/// Without `--once`, as `agent run`, but no process is told and none is supervised. With it, every file is written once.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Render {
    /// Write every file once and exit
    #[arg(long)]
    pub once: bool,
    /// How long to wait for a store that does not answer yet, as in 60s or 1m30s; without it, one attempt
    #[arg(long, value_name = "DURATION", requires = "once", value_parser = wait)]
    wait: Option<Duration>,
    /// Only this target (may be repeated)
    #[arg(long, value_name = "NAME", requires = "once")]
    target: Vec<String>,
    /// Write nothing, and print what would change with every secret value masked
    #[arg(long, requires = "once")]
    dry_run: bool,
    /// Print JSON
    #[arg(long, requires = "once")]
    json: bool,
}

fn wait(text: &str) -> Result<Duration, String> {
    config::duration(text).ok_or_else(|| "a duration is a number with a unit, as in 60s, 500ms or 1m30s".to_owned())
}

pub(super) fn run(arguments: Render, context: &Context) -> Result<u8, Failure> {
    if !arguments.once {
        return run::start(context, Vec::new(), false);
    }
    let options = once::Options {
        file: context.config.clone(),
        wait: arguments.wait.unwrap_or_default(),
        targets: arguments.target,
        dry_run: arguments.dry_run,
    };
    let report = wait_for(once::render_once(&options, &environment))?;
    if arguments.json {
        print_json(&report.json())?;
    } else {
        let text: String = report.targets.iter().map(|target| format!("{target}\n")).collect();
        print(&mask::mask(&text))?;
        faults(&report.warnings, &report.problems);
    }
    Ok(report.exit_code())
}
