//! Builds it all from a config.

use std::path::PathBuf;

use crate::hardening::Original;

/// How an agent is started.
pub struct Options {
    /// The config file.
    pub config: PathBuf,
    /// `CMD ARG…` of `agent run -- CMD ARG…`, else empty.
    pub command: Vec<String>,
    /// Whether targets are told of a change; false for `agent render`.
    pub reload_targets: bool,
    /// What the process had before it was hardened.
    pub original: Original,
}

/// Runs until told to stop; answers the exit code.
pub async fn run(_options: Options) -> u8 {
    70
}

/// `agent check`.
pub mod check {
    use std::path::Path;

    use crate::config::Fault;

    /// What is wrong.
    #[derive(Default)]
    pub struct Report {
        /// Faults.
        pub problems: Vec<Fault>,
        /// Doubts.
        pub warnings: Vec<Fault>,
    }

    impl Report {
        /// The exit code.
        pub fn exit_code(&self) -> u8 {
            70
        }

        /// For programs.
        pub fn json(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
    }

    /// Checks.
    pub async fn check(_file: &Path, _offline: bool, _env: &dyn Fn(&str) -> Option<String>) -> Report {
        Report::default()
    }
}

/// `agent render --once`.
pub mod once {
    use std::path::PathBuf;
    use std::time::Duration;

    use crate::config::Fault;

    /// What is asked for.
    pub struct Options {
        /// The config file.
        pub file: PathBuf,
        /// How long to wait for stores.
        pub wait: Duration,
        /// Only these targets.
        pub targets: Vec<String>,
        /// Write nothing.
        pub dry_run: bool,
    }

    /// What came of it.
    #[derive(Default)]
    pub struct Report {
        /// Targets.
        pub targets: Vec<String>,
        /// Faults.
        pub problems: Vec<Fault>,
        /// Doubts.
        pub warnings: Vec<Fault>,
    }

    impl Report {
        /// The exit code.
        pub fn exit_code(&self) -> u8 {
            70
        }

        /// For programs.
        pub fn json(&self) -> serde_json::Value {
            serde_json::Value::Null
        }
    }

    /// Renders.
    pub async fn render_once(_options: &Options, _env: &dyn Fn(&str) -> Option<String>) -> Report {
        Report::default()
    }
}
