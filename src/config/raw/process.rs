//! `reload`: how a process takes a change up.

use crate::config::decode::{At, Table, empty_record, record, union};
use crate::config::model::{OnChange, SystemdVerb};
use crate::config::scalar::{Command, FilePath, Owner, SignalName, Span, TeraValue, Text};

union! {
    /// How the process takes a change up.
    pub enum RawReload {
        "signal" => Signal(RawSignal),
        "systemd" => Systemd(RawSystemd),
        "exec" => Exec(RawExec),
        "command" => Command(RawCommand),
        "none" => None(RawNone),
    }
}

record! {
    /// A signal to the process that a pidfile names.
    pub struct RawSignal {
        /// The pidfile.
        pidfile: FilePath,
        /// The signal's name, with or without SIG.
        signal: SignalName = "HUP",
        /// What the process must be, lest a stale pidfile hits a stranger.
        expect: Option<RawExpect>,
    }
}

record! {
    /// What a process must be.
    pub struct RawExpect {
        /// Its executable.
        exe: Option<FilePath>,
        /// Its name as in /proc/PID/comm: at most 15 bytes.
        comm: Option<Text>,
        /// Its user, by name or number.
        uid: Option<Owner>,
    }
}

record! {
    /// A systemd unit, over D-Bus.
    pub struct RawSystemd {
        /// The unit; `.service` is added where there is no suffix.
        unit: Text,
        /// What is asked of it.
        verb: SystemdVerb = "reload-or-restart",
        /// Bound on the job.
        timeout: Span<1> = "90s",
    }
}

record! {
    /// A process that the agent itself starts and supervises.
    pub struct RawExec {
        /// Program and arguments; `agent run -- CMD` stands in for it.
        command: Option<Command>,
        /// Variables added to its environment; values are Tera text. A change of one restarts it.
        env: Option<Table<TeraValue>>,
        /// What a change of its files does. `handover` starts the new process beside the old one: see handover.md.
        on_change: OnChange = "restart",
        /// Sockets kept open over its restarts and passed to it (LISTEN_FDS), as tcp://0.0.0.0:4000, [::]:4000 or unix:///path?mode=0660.
        listen: Option<Vec<At<Text>>>,
        /// From TERM to KILL.
        stop_timeout: Span<0> = "10s",
        /// With `handover`, how long the old process may take to end after TERM.
        drain: Span<0> = "30s",
        /// User to run as, by name or number; by default the agent's own.
        user: Option<Owner>,
        /// Group to run as; by default the user's own.
        group: Option<Owner>,
        /// Working directory; by default the agent's own.
        cwd: Option<FilePath>,
    }
}

record! {
    /// A command.
    pub struct RawCommand {
        /// Program and arguments. Exit 0 is success.
        run: Command,
        /// Bound on its run.
        timeout: Span<1> = "30s",
    }
}

/// The process is not told.
pub struct RawNone;

empty_record!(RawNone, "The process is not told.");
