//! `agent release`.

use super::Context;
use super::output::{Failure, print};
use super::table::lines;

/// Lift a hold or a quarantine
///
/// The target takes up what its secrets are now.
#[derive(Debug, clap::Args)]
pub struct Release {
    /// The target
    target: String,
}

pub(super) fn run(arguments: Release, context: &Context) -> Result<u8, Failure> {
    let text = context.agent()?.release(arguments.target)?;
    print(&lines(&text))?;
    Ok(0)
}
