//! Named places at which a test may kill this very process, to prove that nothing is lost there.
//!
//! Without the cargo feature `failpoints` every call is empty. With it, the environment decides:
//! `LEASEHOLD_FAILPOINT=name[:n]` sends SIGKILL to the process at the n-th hit of that name (from 1), and
//! `LEASEHOLD_FAILPOINT_TRACE=file` appends the name of every hit to a file, so that a test can learn all of them.
//! For tests only: a release is never built with it.

/// Marks a place, as `room.step` (`publish.file.after_rename`).
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_name: &str) {}

/// Marks a place in code that several rooms share: `room` tells them apart.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit_in(_room: &str, _step: &str) {}

#[cfg(feature = "failpoints")]
pub use armed::{hit, hit_in};

#[cfg(feature = "failpoints")]
mod armed {
    use std::io::Write;
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use nix::sys::signal::{Signal, kill};
    use nix::unistd::Pid;

    struct Armed {
        name: Option<String>,
        at: u64,
        trace: Option<std::ffi::OsString>,
    }

    fn armed() -> &'static Armed {
        static ARMED: OnceLock<Armed> = OnceLock::new();
        ARMED.get_or_init(|| {
            let spec = std::env::var("LEASEHOLD_FAILPOINT").ok().filter(|spec| !spec.is_empty());
            let (name, at) = match spec.as_deref().and_then(|spec| spec.rsplit_once(':')) {
                Some((name, at)) => (Some(name.to_owned()), at.parse().unwrap_or(1)),
                None => (spec, 1),
            };
            Armed { name, at, trace: std::env::var_os("LEASEHOLD_FAILPOINT_TRACE") }
        })
    }

    /// Marks a place, as `room.step` (`publish.file.after_rename`).
    pub fn hit(name: &str) {
        static HITS: AtomicU64 = AtomicU64::new(0);
        let armed = armed();
        if let Some(trace) = &armed.trace {
            let file = std::fs::OpenOptions::new().create(true).append(true).open(trace);
            if let Ok(mut file) = file {
                let _ = file.write_all(format!("{name}\n").as_bytes());
            }
        }
        if armed.name.as_deref() == Some(name) && HITS.fetch_add(1, Ordering::SeqCst) + 1 == armed.at {
            let _ = kill(Pid::this(), Signal::SIGKILL);
            loop {
                std::thread::park();
            }
        }
    }

    /// Marks a place in code that several rooms share: `room` tells them apart.
    pub fn hit_in(room: &str, step: &str) {
        hit(&format!("{room}.{step}"));
    }
}
