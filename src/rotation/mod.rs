//! The rotation machine of one target: pure, total, and small enough to be searched.
//!
//! [`step`] takes what happened and answers what to do next; the driver carries effects out and tells what came of
//! them. At most one operation is in flight, never cancelled; a crash is one more event, seen by [`recover`].
//!
//! ```text
//! forward  Stage -> Verify -> Save(intent) -> Publish -> Reload -> Probe -> Save(commit) -> Prune
//! back     Publish -> Reload -> Probe -> Save(record) -> Prune
//! ```
//!
//! The rules it keeps are written as invariants in `tests/rotation_search/rules.rs`, which checks them in every world
//! that any order of success, failure, half-success, crash, snapshot, expiry, command, stop and restart can reach.

mod forward;
mod journal;
mod returning;
mod step;

pub use journal::{Committed, Intent, Journal};
pub use step::{recover, step};

/// A generation's number: grows, never reused.
pub type Generation = u64;

/// Keyed digest of everything a generation is made from: versions of the secrets, template texts, the target's config.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub u64);

/// What does not change while the machine lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// What an unhealthy forward rotation leads to.
    pub on_unhealthy: crate::config::model::OnUnhealthy,
    /// Committed generations to retain, at least 1.
    pub keep: usize,
    /// Whether the process is the agent's own child (`reload.type: exec`).
    pub supervised: bool,
}

/// A generation that is on its way to being committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Its number.
    pub generation: Generation,
    /// What it was made from.
    pub digest: Digest,
    /// Whether the target is held once it is committed (an operator's rollback).
    pub hold: bool,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The newest inputs have this digest. Only the newest counts.
    Snapshot(Digest),
    /// The committed generation's credentials are dead: it is no refuge any more.
    Expired,
    /// The supervised process ended by itself.
    Died,
    /// The process of a `waiting` target is there now.
    Appeared,
    /// The wait asked for by [`Effect::Wait`] is over.
    Timer,
    /// An operator lifts hold and quarantine.
    Release,
    /// An operator wants this earlier generation, and then a hold.
    Rollback(Generation, Digest),
    /// Wind up: finish or roll back, then answer [`Effect::Stopped`].
    Stop,
    /// The operation in flight succeeded.
    Done,
    /// Stage wrote this generation.
    Staged(Generation),
    /// Stage found the bytes, owners and modes of the committed generation.
    Unchanged,
    /// Publish succeeded; whether any file was written or removed.
    Published {
        /// False: every file was already as it should be.
        changed: bool,
    },
    /// Reload found no process.
    NotRunning,
    /// The operation in flight failed, or may have.
    Failed(Failure),
}

/// What a failure says about a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The same inputs will fail again: a bad template, a refused credential, an unhealthy process.
    ForGood,
    /// The surroundings failed: a full disk, an unreachable provider, a missing permission.
    ForNow,
}

/// What to do. The operations (all but `Report`, `Wait` and `Stopped`) are answered by one event each.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Effect {
    /// Render the newest inputs, which have this digest, and write a generation beside the live one.
    /// Answer: `Staged`, `Unchanged`, `Failed`.
    Stage(Digest),
    /// Run every check, expectation and verify request of a staged generation. Answer: `Done`, `Failed`.
    Verify(Generation),
    /// Make this journal durable. Answer: `Done`, `Failed`.
    Save(Journal),
    /// Make the live files those of a generation. Answer: `Published`, `Failed`.
    Publish(Generation),
    /// Tell the process. Answer: `Done`, `NotRunning`, `Failed`.
    Reload {
        /// The generation that is live.
        generation: Generation,
        /// False: what is live is what a running process already has; only make sure that a supervised one runs.
        needed: bool,
    },
    /// Ask until the verdict is in. Answer: `Done`, `Failed`.
    Probe(Generation),
    /// End the supervised process of a generation that did not become healthy. Answer: `Done`, `Failed`.
    Halt,
    /// Remove every generation but these and revoke the leases of all but `using`. Answer: `Done`, `Failed`.
    Prune {
        /// Generations to retain.
        keep: Vec<Generation>,
        /// Generations whose leases must live.
        using: Vec<Generation>,
    },
    /// Send `Timer` after the backoff of this many attempts. Any later effect ends the wait.
    Wait {
        /// 1 for the first wait in a row.
        attempt: u32,
    },
    /// Tell history, metrics and audit.
    Report(Report),
    /// Nothing is in flight and nothing will be; the driver may go.
    Stopped,
}

/// How a rotation ended: the words of `history` and the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The new generation is the one to go back to from now on.
    Committed,
    /// The generation before is back.
    RolledBack,
    /// Never published.
    Quarantined,
    /// Left as it is, for an operator.
    Held,
    /// A newer snapshot took its place before anything was published.
    Superseded,
}

/// One rotation's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Report {
    /// How.
    pub outcome: Outcome,
    /// Of which generation; None where none was staged.
    pub generation: Option<Generation>,
    /// Of which inputs.
    pub digest: Digest,
}

/// The machine's state. Fields are readable so that status can be told and rules can be checked; only [`step`] and
/// [`recover`] make new ones.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    /// Fixed settings.
    pub policy: Policy,
    /// The journal as it should be on disk.
    pub journal: Journal,
    /// Whether the disk may hold another journal than this.
    pub unsaved: bool,
    /// What is going on.
    pub phase: Phase,
    /// The newest inputs, once there are any.
    pub newest: Option<Digest>,
    /// Whether the target is on the committed generation: provably, or as soon as its process is there (`proven`).
    pub settled: bool,
    /// Whether the supervised process ended since it was last told.
    pub died: bool,
    /// Whether live files may differ from what the process has taken up.
    pub touched: bool,
    /// Whether the process may have come by itself and read its files before the live ones were there: nobody told it.
    /// It is told where it is not healthy, and only then judged.
    pub unsure: bool,
    /// Whether the reload in flight tells it.
    pub telling: bool,
    /// Whether generations may exist that the journal does not name.
    pub littered: bool,
    /// Whether removing them failed, so that it waits for its turn.
    pub prune_failed: bool,
    /// Whether the committed credentials are dead.
    pub expired: bool,
    /// Waits in a row without success.
    pub attempt: u32,
    /// Inputs that failed for now: they are not taken before a wait.
    pub backoff: Option<Digest>,
    /// The rotation whose end was not told yet.
    pub begun: Option<Begun>,
    /// An operator's rollback that waits for its turn.
    pub command: Option<Candidate>,
    /// Whether to wind up.
    pub stopping: bool,
}

/// A rotation that began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Begun {
    /// Of these inputs.
    pub digest: Digest,
    /// As this generation, once one was staged.
    pub generation: Option<Generation>,
    /// Whether an operator asked for it: then other inputs that are the same do not stand for it.
    pub asked: bool,
}

impl Begun {
    fn of(Candidate { generation, digest, hold }: Candidate) -> Begun {
        Begun { digest, generation: Some(generation), asked: hold }
    }
}

/// What is going on. Every phase but `Rest`, `Waiting` and `Stopped` has one operation in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing.
    Rest,
    /// Stage of these inputs.
    Staging(Digest),
    /// Verify of a staged candidate.
    Verifying(Candidate),
    /// A candidate on its way.
    Forward(Forward, Candidate),
    /// On the way to a committed generation.
    Back(Back, Plan),
    /// The journal is being brought up to date, with nothing else to do.
    Saving,
    /// Old generations are being removed.
    Pruning,
    /// A timer runs; then this.
    Waiting(Retry),
    /// The end.
    Stopped,
}

/// Steps forward after Verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Forward {
    /// Saving the intent.
    Intend,
    /// Publishing.
    Publish,
    /// Reloading.
    Reload,
    /// Probing.
    Probe,
    /// Saving the commit; whether health was seen.
    Commit {
        /// False: the process is not there yet.
        proven: bool,
    },
    /// Saving the hold of an unhealthy candidate.
    Hold,
    /// Ending a supervised process that did not become healthy.
    Halt,
}

/// Steps back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Back {
    /// Publishing the committed generation.
    Publish,
    /// Reloading it.
    Reload,
    /// Probing it.
    Probe,
    /// Saving that it is the one; whether health was seen.
    Record {
        /// False: the process is not there yet, or the agent is winding up.
        proven: bool,
    },
}

/// Where a way back leads, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// The generation to be on.
    pub to: Committed,
    /// The candidate that failed, if that is why.
    pub failed: Option<Candidate>,
}

/// What a timer leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Look again at what there is to do.
    Next,
    /// Remove old generations again.
    Prune,
    /// Stage these inputs again.
    Stage(Digest),
    /// Verify this candidate again.
    Verify(Candidate),
    /// Go on forward from this step: there is no refuge.
    Forward(Forward, Candidate),
    /// Go back again: degraded.
    Back(Plan),
    /// Save the commit again.
    Commit {
        /// As in [`Forward::Commit`].
        proven: bool,
        /// The candidate.
        candidate: Candidate,
    },
    /// Save the record again.
    Record {
        /// As in [`Back::Record`].
        proven: bool,
        /// The plan.
        plan: Plan,
    },
}
