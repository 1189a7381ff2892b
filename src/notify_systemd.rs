//! What systemd is told about the agent (sd_notify(3)): nothing where it does not ask, by `NOTIFY_SOCKET`.
//!
//! Telling never fails the agent: what cannot be sent is logged at `debug`. That children do not see `NOTIFY_SOCKET`
//! and `WATCHDOG_*` is the business of who starts them. Texts of `STATUS` must be masked by the caller.

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use sd_notify::NotifyState;

/// Bound on the wait for a systemd that does not read.
const PATIENCE: Duration = Duration::from_millis(500);

/// Whether somebody listens.
pub fn wanted() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Start or reload is done: every target is healthy, waiting or at least on a committed generation.
pub fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// One line for `systemctl status`.
pub fn status(status: &str) {
    tell(&[NotifyState::Status(&one_line(status))]);
}

/// A reload began; [`ready`] ends it. With the monotonic time that `Type=notify-reload` asks for.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("cannot read the monotonic clock: {error}"),
    }
}

/// Shutdown began.
pub fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Needs this much longer to start, reload or stop than the unit allows.
pub fn extend_timeout(by: Duration) {
    tell(&[NotifyState::ExtendTimeoutUsec(u32::try_from(by.as_micros()).unwrap_or(u32::MAX))]);
}

/// How often the watchdog is fed: half of `WATCHDOG_USEC` (sd_watchdog_enabled(3)). None where it is off or meant for
/// another process.
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|limit| (limit / 2).max(Duration::from_millis(1)))
}

/// Feeds the watchdog for as long as it is polled: a runtime that hangs stops it. Returns at once where it is off.
pub async fn feed_watchdog() {
    let Some(interval) = watchdog_interval() else { return };
    loop {
        tell(&[NotifyState::Watchdog]);
        tokio::time::sleep(interval).await;
    }
}

fn tell(states: &[NotifyState<'_>]) {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let message: String = states.iter().map(|state| format!("{state}\n")).collect();
    if let Err(error) = send(&socket, message.as_bytes()) {
        tracing::debug!("systemd cannot be told: {error}");
    }
}

/// `sd_notify::notify` with two differences: a bound on the wait (a datagram to a reader whose queue is full blocks, and
/// with it would the whole agent), and abstract sockets (`@name`, as sd_notify(3) allows).
fn send(socket: &OsStr, message: &[u8]) -> std::io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.set_write_timeout(Some(PATIENCE))?;
    match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => sender.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => sender.connect(socket)?,
    }
    sender.send(message).map(drop)
}

/// A newline would begin another assignment.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
