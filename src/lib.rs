//! Leasehold: a secret-store sidecar agent. A rotation is a transaction, from a changed secret to a healthy target, or
//! back.
//!
//! ```text
//! config -> stores -> snapshot -> render -> stage -> verify -> publish -> reload -> health -> commit
//!                                                                         \-> or back to the generation before
//! ```
//!
//! Data flows one way, and every room knows only the rooms below it (docs/architecture.md; `tests/architecture` keeps it
//! so). The pure core decides: [`rotation`] is a state machine without clock, file or runtime, whose every reachable world
//! is searched (docs/rotation.md). The edges act: [`store`], [`generation`], [`journal`], [`reload`], [`probe`]. The wiring
//! carries events to the core and its effects to the edges: [`watch`], [`driver`], [`agent`].
//!
//! # Invariants
//!
//! * Nothing is published before it was verified, and not before its intent is on disk.
//! * A live file is the old one or the new one, with its owner and mode, at every instant and after every crash.
//! * What failed after it was published is taken back; what cannot be taken back is said to be degraded, and retried.
//! * A generation is pruned, and its lease revoked, only while the target is provably on another one.
//! * A quarantined set of inputs is not tried again until it changes or an operator releases it.
//! * The newest snapshot is never lost; of several only the newest is taken.
//! * No value of a secret is in a log, an error, a metric, the journal, the history, or an argument list.

pub mod admin;
pub mod agent;
pub mod aws_identity;
pub mod cli;
pub mod config;
pub mod control;
pub mod dbus;
pub mod digest;
pub mod driver;
pub mod durable;
pub mod failpoint;
pub mod generation;
pub mod hardening;
pub mod journal;
pub mod notify_systemd;
pub mod pathwatch;
pub mod probe;
pub mod process;
pub mod reload;
pub mod render;
pub mod rotation;
pub mod schedule;
pub mod scratch;
pub mod seal;
pub mod secret;
pub mod state_dir;
pub mod store;
pub mod telemetry;
pub mod verdict;
pub mod verify;
pub mod watch;
