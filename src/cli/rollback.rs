//! `agent rollback`.

use super::Context;
use super::output::{Failure, print};
use super::table::lines;

/// Go back to an earlier generation, and hold there
///
/// The target stays there, whatever its secrets do, until `agent release TARGET`.
#[derive(Debug, clap::Args)]
pub struct Rollback {
    /// The target
    target: String,
    /// The generation; by default the one before. `agent history` names them; `keep` in the config says how many there are
    #[arg(long, value_name = "GENERATION")]
    to: Option<u64>,
}

pub(super) fn run(arguments: Rollback, context: &Context) -> Result<u8, Failure> {
    let text = context.agent()?.rollback(arguments.target, arguments.to)?;
    print(&lines(&text))?;
    Ok(0)
}
