//! `agent refresh`.

use super::Context;
use super::output::{Failure, colour, print, print_json};
use super::table::{Paint, Table, cell, painted, remarks};

/// Read secrets now instead of at the next poll
///
/// A secret that changed rotates its targets as ever: see `agent status --watch`. Exit code 69 where one could not be read.
#[derive(Debug, clap::Args)]
pub struct Refresh {
    /// The secrets to read; none: all
    #[arg(value_name = "SECRET")]
    secrets: Vec<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: Refresh, context: &Context) -> Result<u8, Failure> {
    let lines = context.agent()?.refresh(arguments.secrets)?;
    if arguments.json {
        print_json(&lines)?;
    } else {
        let mut table = Table::new(&["SECRET", "READ", "VERSION"]);
        for line in &lines {
            let (word, paint) = match (&line.error, line.changed) {
                (Some(_), _) => ("failed", Paint::Red),
                (None, true) => ("changed", Paint::Green),
                (None, false) => ("unchanged", Paint::None),
            };
            let version = line.version.as_deref().unwrap_or("-");
            table.row(
                vec![cell(&line.name), painted(word, paint), cell(version)],
                remarks(line.error.as_deref(), Paint::Red),
            );
        }
        print(&table.text(colour()))?;
    }
    Ok(if lines.iter().any(|line| line.error.is_some()) { 69 } else { 0 })
}
