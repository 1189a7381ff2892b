//! The command line.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

use super::{check, completions, history, man, refresh, release, render, rollback, run, status};
use crate::telemetry::logging::Format;

const GLOBAL: &str = "Global options";

const EXIT_CODES: &str = "\
Exit codes (sysexits.h):
  0   done
  64  usage
  65  a template or its output is invalid
  66  a secret or file that the config names does not exist
  69  a store (or, for status and its like, the agent) could not be reached in time
  70  internal
  74  reading or writing a file failed
  75  the target did not become healthy
  77  a store or the system denied access
  78  the config is invalid
With a supervised process, `agent run` ends with that process's code, or 128+N for signal N.";

/// Keeps the secrets of a running process fresh: renders files from a secret store, tells the process, checks that it is
/// healthy, and rolls back what is not.
#[derive(Debug, Parser)]
#[command(name = "agent", version, after_long_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Arguments {
    /// The config file
    #[arg(
        short,
        long,
        global = true,
        help_heading = GLOBAL,
        value_name = "FILE",
        env = "AGENT_CONFIG",
        hide_env_values = true,
        default_value = "agent.yaml"
    )]
    pub config: PathBuf,
    /// How log lines look (they go to standard error)
    #[arg(long, global = true, help_heading = GLOBAL, value_enum, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// From which level on is logged [default: info for `run` and `render`, else warn]
    #[arg(long, global = true, help_heading = GLOBAL, value_enum, value_name = "LEVEL")]
    pub log_level: Option<Level>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands; each says itself what it is for.
#[derive(Debug, Subcommand)]
pub enum Command {
    Run(run::Run),
    Render(render::Render),
    Check(check::Check),
    Status(status::Status),
    History(history::History),
    Refresh(refresh::Refresh),
    Rollback(rollback::Rollback),
    Release(release::Release),
    /// Print the JSON Schema of the config, for editors
    Schema,
    Completions(completions::Completions),
    Man(man::Man),
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    // Without doc comments: clap would list them at length in every command's help.
    Text,
    Json,
}

impl From<LogFormat> for Format {
    fn from(format: LogFormat) -> Self {
        match format {
            LogFormat::Text => Self::Text,
            LogFormat::Json => Self::Json,
        }
    }
}

/// `--log-level`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => Self::ERROR,
            Level::Warn => Self::WARN,
            Level::Info => Self::INFO,
            Level::Debug => Self::DEBUG,
            Level::Trace => Self::TRACE,
        }
    }
}

/// The whole command line, as completions and man pages need it.
pub fn command() -> clap::Command {
    Arguments::command()
}
