//! Standard output and standard error.

use std::fmt::Display;
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

use crate::telemetry::mask;

/// Why a command did not do what it was told.
pub(super) struct Failure {
    /// The exit code (sysexits.h).
    pub exit: u8,
    /// For the operator; masked when it is printed.
    pub message: String,
}

impl Failure {
    pub fn new(exit: u8, message: impl Into<String>) -> Self {
        Self { exit, message: message.into() }
    }
}

/// Prints on standard output, all of it now.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| Failure::new(74, format!("cannot write to standard output: {error}")))
}

/// Prints a document for programs.
pub(super) fn print_json<T: Serialize>(document: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document).map_err(|error| Failure::new(70, error.to_string()))?;
    print(&(text + "\n"))
}

/// Prints a complaint on standard error, masked, each of its lines with the program's name.
pub(super) fn complain(message: &str) {
    let message = mask::display(&message);
    let text: String = message.lines().map(|line| format!("agent: {line}\n")).collect();
    // Nobody is left to tell when standard error is gone.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Colour only on a terminal, and never with `NO_COLOR` (no-color.org: any non-empty value).
pub(super) fn colour() -> bool {
    io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Prints warnings and then faults on standard error, masked, one a line; a fault's line begins with its place, as editors
/// and CI read them.
pub(super) fn faults(warnings: &[impl Display], faults: &[impl Display]) {
    let warnings = warnings.iter().map(|warning| format!("warning: {}\n", mask::display(warning)));
    let faults = faults.iter().map(|fault| format!("{}\n", mask::display(fault)));
    let text: String = warnings.chain(faults).collect();
    // Nobody is left to tell when standard error is gone.
    let _ = io::stderr().lock().write_all(text.as_bytes());
}
