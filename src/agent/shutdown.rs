//! Winding up within a bound: steps in flight finished or rolled back, supervised processes ended, all told.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use signal_hook_tokio::Signals;
use tokio::time::timeout;

use super::running::Agent;
use crate::config::model::{ReloadConfig, TargetConfig};
use crate::driver::Ended;
use crate::notify_systemd;
use crate::process::Exit;
use crate::telemetry::audit::{Audit, Event};

/// What drivers get beside what their own processes and commands are allowed to take.
const GRACE: Duration = Duration::from_secs(15);
/// What the rest gets.
const REST: Duration = Duration::from_secs(5);

impl Agent {
    /// Ends everything, and answers the exit code. A second signal to stop ends it at once.
    pub(super) async fn stop(mut self, reason: String, ended: Option<Ended>, signals: &mut Signals) -> u8 {
        let drivers = self.shared.drivers();
        drivers.values().for_each(crate::driver::Driver::stop);
        let bound = GRACE + self.shared.config().targets.values().map(|t| bound(t)).max().unwrap_or_default();
        // A unit's TimeoutStopSec= knows nothing of the config.
        notify_systemd::extend_timeout(bound + 2 * REST);
        let all = join_all(drivers.values().map(crate::driver::Driver::ended));
        let all = tokio::select! {
            all = timeout(bound, all) => all.unwrap_or_else(|_| {
                tracing::error!("targets did not wind up within {bound:?}: the next start goes on from the journal");
                Vec::new()
            }),
            () = again(signals) => {
                tracing::warn!("told to stop again: the next start goes on from the journal");
                Vec::new()
            }
        };
        self.cancel.cancel();
        let rest = async {
            self.shared.watch.stopped().await;
            join_all(std::mem::take(&mut self.servers)).await;
        };
        let _late = timeout(REST, rest).await;
        self.shared.audit.record((self.shared.clock)(), &Event::AgentStopped { reason });
        let writer = self.writer.take();
        self.surroundings.audit = Audit::off();
        drop(self);
        if let Some(writer) = writer {
            let _late = timeout(REST, writer).await;
        }
        code(ended.into_iter().chain(all).filter_map(|e| e.exit))
    }
}

/// How long a target's own settings let it take: its process to end, its job or command to answer.
fn bound(target: &TargetConfig) -> Duration {
    match &target.reload {
        ReloadConfig::Exec(exec) => exec.stop_timeout.saturating_mul(2),
        ReloadConfig::Systemd(systemd) => systemd.timeout,
        ReloadConfig::Command(command) => command.timeout,
        ReloadConfig::Signal(_) | ReloadConfig::None => Duration::ZERO,
    }
}

async fn again(signals: &mut Signals) {
    while let Some(signal) = signals.next().await {
        if matches!(signal, nix::libc::SIGTERM | nix::libc::SIGINT) {
            return;
        }
    }
    std::future::pending().await
}

/// The code of a supervised process, or 128+N for signal N; of several the largest; 0 where there is none.
fn code(exits: impl Iterator<Item = Exit>) -> u8 {
    exits.map(|exit| u8::try_from(exit.shell_code() & 0xff).unwrap_or(u8::MAX)).max().unwrap_or(0)
}
