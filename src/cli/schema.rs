//! `agent schema`.

use super::output::{Failure, print_json};
use crate::config;

pub(super) fn run() -> Result<u8, Failure> {
    print_json(&config::schema())?;
    Ok(0)
}
