//! What keeps a secret from leaving the process by the back door: core dumps, other processes of the same user, files
//! made too open.
//!
//! A process that is not dumpable (PR_SET_DUMPABLE, prctl(2)) leaves no core, cannot be traced by another process without
//! CAP_SYS_PTRACE, and its `/proc/PID` files belong to root: others of the same user can no longer read its `environ`,
//! `maps`, `mem` or `fd`. The price: an agent that is not root cannot open `/proc/self/environ`, `oom_score_adj` or the
//! `uid_map` of its own either, and `gdb -p` and `strace -p` need root. A child loses the mark when it executes its own
//! program (execve(2)), so a supervised process is as dumpable as it would be without the agent.

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

/// What the process had before: a supervised child gets it back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Original {
    /// RLIMIT_CORE, soft and hard, in bytes.
    pub core_limit: (u64, u64),
    /// umask.
    pub umask: u32,
}

/// A step that the system refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {source}")]
pub struct HardeningError {
    step: &'static str,
    source: nix::errno::Errno,
}

/// No core dumps, not dumpable, umask 077. Called once, before any thread starts and any secret is read. The hard limit on
/// cores is left alone, so that a child without privileges can have its own again; the agent's cores are prevented twice.
pub fn harden() -> Result<Original, HardeningError> {
    let fault = |step| move |source| HardeningError { step, source };
    let core_limit = getrlimit(Resource::RLIMIT_CORE).map_err(fault("read the limit on core dumps"))?;
    setrlimit(Resource::RLIMIT_CORE, 0, core_limit.1).map_err(fault("turn core dumps off"))?;
    prctl::set_dumpable(false).map_err(fault("make the process non-dumpable"))?;
    let before = umask(Mode::from_bits_truncate(0o077));
    Ok(Original { core_limit, umask: before.bits() })
}

/// Lets SIGPIPE end this process, as it ends any other program in a pipe: for commands that print (`agent status | head`).
/// Not for `agent run`: a peer that hangs up must not end it.
pub fn end_on_broken_pipe() -> std::io::Result<()> {
    let always = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
    signal_hook::flag::register_conditional_default(signal_hook::consts::SIGPIPE, always).map(drop)
}
