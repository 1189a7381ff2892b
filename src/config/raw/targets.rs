//! `targets`: files, health, policy.

use crate::config::decode::{At, Table, empty_record, record, union};
use crate::config::model::{Format, OnUnhealthy, Structure};
use crate::config::raw::process::RawReload;
use crate::config::scalar::{
    Command, FilePath, HostPort, Json, Method, Mode, OneOrMany, Owner, Span, Tera, TeraValue, Text, Whole,
};

record! {
    /// What rotates as one unit: files, how a process takes them up, how its health is known.
    pub struct RawTarget {
        /// Its files.
        files: Option<Vec<At<RawFile>>>,
        /// Folder in which all its files live and change together, in one rename; their paths are relative to it.
        directory: Option<FilePath>,
        /// How the process takes a change up; by default it is not told.
        reload: Option<RawReload>,
        /// How the process's health is known; by default it counts as healthy.
        health: Option<RawHealth>,
        /// After an unhealthy change: go back, wait for a human, or commit all the same.
        on_unhealthy: OnUnhealthy = "rollback",
        /// Whether a process that is not there is a failure.
        require_running: bool = false,
        /// Changes that arrive together rotate together.
        settle: Option<RawSettle>,
        /// Upper bound of a random wait before acting, so that a fleet does not move at once.
        splay: Span<0> = "0s",
        /// Generations retained for rollback.
        keep: Whole<1, 1000> = 3,
        /// Environment variables of the agent that templates may read as `env.NAME`, and that a supervised process keeps.
        pass_env: Option<Vec<At<Text>>>,
    }
}

record! {
    /// How long changes are gathered.
    pub struct RawSettle {
        /// Quiet time that ends the wait; by default 500ms, or `max` where that is shorter.
        min: Option<Span<0>>,
        /// Bound on the wait; by default 5s, or `min` where that is longer.
        max: Option<Span<0>>,
    }
}

record! {
    /// One file, with exactly one of `template`, `inline`, `env` and `resolve`.
    pub struct RawFile {
        /// Where it is published.
        path: FilePath,
        /// Source: a Tera file.
        template: Option<FilePath>,
        /// Source: Tera text.
        inline: Option<Tera>,
        /// Source: variables; values are Tera text, quoted for the reader that `format` names.
        env: Option<Table<TeraValue>>,
        /// Source: a YAML, JSON or env file in which whole values such as `STORE://PATH#FIELD` are replaced.
        resolve: Option<FilePath>,
        /// What reads it; by default from the extension: .yaml .yml .json .toml .env .sh, else text.
        format: Option<Format>,
        /// Permission bits, in quotes.
        mode: Mode = "0600",
        /// Owner; by default the agent's own user.
        owner: Option<Owner>,
        /// Group; by default the agent's own.
        group: Option<Owner>,
        /// A command that must accept the file before it is published.
        check: Option<RawCheck>,
        /// Whether symlinks in `path` are followed.
        follow_symlinks: bool = false,
        /// Whether the keys of a structured file must stay the same whatever the secrets' values are.
        structure: Structure = "fixed",
    }
}

record! {
    /// A command that judges a file before it is published.
    pub struct RawCheck {
        /// Program and arguments; `{path}` stands for the staged file. Exit 0 accepts.
        run: Command,
        /// Text that its standard output must contain.
        stdout: Option<Text>,
        /// Bound on its run.
        timeout: Span<1> = "30s",
    }
}

union! {
    /// How health is known.
    pub enum RawHealth {
        "http" => Http(RawHttpHealth),
        "tcp" => Tcp(RawTcpHealth),
        "command" => Command(RawCommandHealth),
        "systemd" => Systemd(RawSystemdHealth),
        "none" => None(RawNoHealth),
    }
}

record! {
    /// How often is asked, and for how long.
    pub struct RawPolicy {
        /// Between attempts.
        interval: Span<1> = "1s",
        /// Bound on one attempt.
        timeout: Span<1> = "5s",
        /// Bound on becoming healthy.
        within: Span<1> = "60s",
        /// Passes in a row that make it healthy.
        successes: Whole<1, 1000> = 1,
    }
}

record! {
    /// What is asked over HTTP, and what must come back.
    pub struct RawRequest {
        /// Method.
        method: Method = "GET",
        /// Headers; values are Tera text.
        headers: Option<Table<TeraValue>>,
        /// Body, Tera text.
        body: Option<Tera>,
        /// Status that passes, or a list of them.
        status: OneOrMany<Whole<100, 599>> = 200,
        /// Text that the body must contain.
        body_contains: Option<Text>,
        /// JSON pointer (RFC 6901) -> value that must stand there; a text value is Tera text.
        json: Option<Table<Json>>,
        /// PEM file with the CA certificates to trust instead of the system's.
        ca_cert: Option<FilePath>,
    }
}

record! {
    /// An HTTP request.
    pub struct RawHttpHealth {
        /// `http://…`, `https://…`, or `unix:/socket:/path`; Tera text.
        url: Option<Tera>,
        /// With `on_change: handover`, instead of `url`: a path asked of the new process alone.
        path: Option<Tera>,
        /// What is asked beside it, many times over new connections, to prove that the new values are in use.
        confirm: Option<RawConfirm>,
        ..request: RawRequest,
        ..policy: RawPolicy,
    }
}

record! {
    /// Proof that the new values are in use, by every worker: asked each time that the health check itself has passed.
    pub struct RawConfirm {
        /// `http://…`, `https://…`, or `unix:/socket:/path`; Tera text.
        url: Option<Tera>,
        /// With `on_change: handover`, instead of `url`: a path asked of the new process alone.
        path: Option<Tera>,
        /// Answers in a row, each over a connection of its own, that must be as expected.
        times: Whole<1, 1000> = 10,
        ..request: RawRequest,
    }
}

record! {
    /// A TCP connect.
    pub struct RawTcpHealth {
        /// Where to.
        address: HostPort,
        ..policy: RawPolicy,
    }
}

record! {
    /// A command that exits 0.
    pub struct RawCommandHealth {
        /// Program and arguments.
        run: Command,
        ..policy: RawPolicy,
    }
}

record! {
    /// A unit that is active.
    pub struct RawSystemdHealth {
        /// The unit; by default the one of `reload`.
        unit: Option<Text>,
        ..policy: RawPolicy,
    }
}

/// Always healthy.
pub struct RawNoHealth;

empty_record!(RawNoHealth, "Always healthy.");
