//! The command line.

use std::path::PathBuf;

use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use tracing::level_filters::LevelFilter;

use super::{check, completions, history, man, refresh, release, render, rollback, run, status};
use crate::telemetry::logging::Format;

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
#[command(
    name = "agent",
    version,
    after_long_help = EXIT_CODES,
    disable_help_subcommand = true,
    max_term_width = 110
)]
pub struct Arguments {
    /// The config file
    #[arg(
        short,
        long,
        global = true,
        value_name = "FILE",
        env = "AGENT_CONFIG",
        hide_env_values = true,
        default_value = "agent.yaml"
    )]
    pub config: PathBuf,
    /// How log lines look (they go to standard error)
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value = "text")]
    pub log_format: LogFormat,
    /// From which level on is logged [default: info for `run` and `render`, else warn]
    #[arg(long, global = true, value_enum, value_name = "LEVEL")]
    pub log_level: Option<Level>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run until told to stop: watch the stores, and rotate what changes
    Run(run::Run),
    /// Keep the files fresh, or write them once; never touch a process
    Render(render::Render),
    /// Prove the config without acting; print every fault
    Check(check::Check),
    /// Show what runs now
    Status(status::Status),
    /// Show the rotations that ended
    History(history::History),
    /// Read secrets now instead of at the next poll
    Refresh(refresh::Refresh),
    /// Go back to an earlier generation, and hold there
    Rollback(rollback::Rollback),
    /// Lift a hold or a quarantine
    Release(release::Release),
    /// Print the JSON Schema of the config, for editors
    Schema,
    /// Print the completions of a shell
    Completions(completions::Completions),
    /// Print the man pages, or write them into a folder
    Man(man::Man),
}

/// `--log-format`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum LogFormat {
    /// One line for people
    Text,
    /// One JSON object a line
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
#[value(rename_all = "lower")]
pub enum Level {
    /// What failed
    Error,
    /// And what is doubtful
    Warn,
    /// And what is done
    Info,
    /// And why
    Debug,
    /// And what libraries say
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
