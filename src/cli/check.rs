//! `agent check`.

use super::output::{Failure, faults, print, print_json};
use super::words::count;
use super::{Context, environment, wait_for};
use crate::agent::check;
use crate::telemetry::mask;

/// Prove the config without acting; print every fault
///
/// Schema, templates against the declared secrets, paths, owners, units; and, unless `--offline`, that each store answers
/// and lets this identity read each secret.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Ask no store
    #[arg(long)]
    offline: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Check, context: &Context) -> Result<u8, Failure> {
    let report = wait_for(check::check(&context.config, arguments.offline, &environment))?;
    let file = context.config.display();
    if arguments.json {
        print_json(&report.json())?;
    } else {
        faults(&report.warnings, &report.faults);
        let doubts = match report.warnings.len() {
            0 => String::new(),
            number => format!(", {}", count(number, "warning")),
        };
        let verdict = match report.faults.len() {
            0 => format!("{file}: sound{doubts}\n"),
            number => format!("{file}: {}{doubts}\n", count(number, "fault")),
        };
        let mut text = verdict;
        for (store, allowed) in &report.allowed {
            text.push_str(&format!("\nstore {store}, what this identity may do:\n\n{}\n", allowed.join("\n")));
        }
        for (store, policy) in &report.policies {
            text.push_str(&format!("\nstore {store}, the smallest policy that this config needs:\n\n{policy}\n"));
        }
        print(&mask::mask(&text))?;
    }
    Ok(report.exit_code())
}
