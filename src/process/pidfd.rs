//! A process held by a descriptor (pidfd_open(2)): its number cannot be reused under our hands.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::signal::Signal;
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A process, alive or ended. Needs a tokio runtime with io.
#[derive(Debug)]
pub struct Pidfd(AsyncFd<OwnedFd>);

impl Pidfd {
    /// Takes hold of `pid`. `Ok(None)`: there is no such process. A thread's id is refused (InvalidInput).
    pub fn open(pid: i32) -> io::Result<Option<Self>> {
        let pid = if pid > 0 { Pid::from_raw(pid) } else { None };
        let Some(pid) = pid else { return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a process id")) };
        match pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => register(fd).map(Some),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            // ENOENT since Linux 6.9, EINVAL before.
            Err(rustix::io::Errno::NOENT | rustix::io::Errno::INVAL) => {
                Err(io::Error::new(io::ErrorKind::InvalidInput, "the id of a thread, not of a process"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a signal to exactly this process. ESRCH when it was reaped meanwhile.
    pub fn send(&self, signal: Signal) -> io::Result<()> {
        let signal = rustix::process::Signal::from_named_raw(signal as i32)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a signal that has a name"))?;
        Ok(pidfd_send_signal(self.0.get_ref(), signal)?)
    }

    /// Resolves when the process has ended (it may still be a zombie). Cancel-safe.
    pub async fn ended(&self) -> io::Result<()> {
        // The descriptor turns readable once and stays so (pidfd_open(2)).
        self.0.readable().await.map(drop)
    }
}

// Deprecated because a type may lie about its descriptor; an OwnedFd cannot, and the new name is `unsafe`.
#[allow(deprecated)]
fn register(fd: OwnedFd) -> io::Result<Pidfd> {
    AsyncFd::with_interest(fd, Interest::READABLE).map(Pidfd)
}
