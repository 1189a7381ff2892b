//! `type: command`: a command tells the process.

use futures_util::future::BoxFuture;

use super::{Change, Reload, ReloadError, Taken};
use crate::config::model::CommandReload;
use crate::process::{self, Inherit, RunError};

/// Runs the command; exit code 0 means taken up. Knows nothing of the process behind it.
pub(super) struct CommandReloader {
    config: CommandReload,
    inherit: Inherit,
}

impl CommandReloader {
    pub(super) fn new(config: CommandReload, inherit: Inherit) -> Self {
        Self { config, inherit }
    }

    async fn run(&self) -> Result<Taken, ReloadError> {
        let program = self.config.run.first().map_or("", String::as_str);
        let outcome = process::run(&self.config.run, self.config.timeout, &self.inherit).await.map_err(|error| {
            let message = format!("reload command: {error}");
            match &error {
                RunError::TimedOut { .. } => {
                    ReloadError::timed_out(message).unquoted(format!("reload command: {}", error.without_output()))
                }
                RunError::Start { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied => {
                    ReloadError::denied(message)
                }
                RunError::Start { .. } | RunError::Wait { .. } => ReloadError::failed(message),
            }
        })?;
        if outcome.exit.success() {
            return Ok(Taken::Done);
        }
        let failed = format!("reload command `{program}` failed with");
        Err(ReloadError::failed(format!("{failed} {}", outcome.why())).unquoted(format!("{failed} {}", outcome.exit)))
    }
}

impl Reload for CommandReloader {
    fn apply<'a>(&'a mut self, _change: Change<'a>) -> BoxFuture<'a, Result<Taken, ReloadError>> {
        Box::pin(self.run())
    }

    /// Always: only the command could say otherwise.
    fn running(&mut self) -> BoxFuture<'_, Result<bool, ReloadError>> {
        Box::pin(async { Ok(true) })
    }
}
