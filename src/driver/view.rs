//! What a target is, in the contract's words.

use super::record::Record;
use crate::rotation::{Forward, Phase, Retry, State};
use crate::telemetry::view::TargetView;

/// The picture that status and metrics show. `stale` is left false: the stores are not known here.
pub(super) fn of(state: &State, record: &Record, files_only: bool) -> TargetView {
    let journal = &state.journal;
    let open = journal.intent.filter(|_| journal.held).map(|i| i.generation);
    let degraded = degraded(state);
    let word = word(state, degraded, files_only);
    let troubled = degraded || journal.held || !matches!(word, "healthy" | "waiting") || refused(state);
    TargetView {
        name: record.target.clone(),
        state: word.to_owned(),
        generation: open.or(journal.committed.map(|c| c.generation)),
        held: journal.held,
        stale: false,
        degraded,
        last_rotation: record.last.clone(),
        last_success_at: record.last_success,
        reason: record.reason.clone().filter(|_| troubled || matches!(state.phase, Phase::Waiting(_))),
        certificates: record.certificates.clone(),
    }
}

/// The newest inputs are quarantined: the target is well, but not where its secrets are.
fn refused(state: &State) -> bool {
    state.newest.is_some_and(|d| state.journal.is_quarantined(d))
}

fn word(state: &State, degraded: bool, files_only: bool) -> &'static str {
    let Some(committed) = state.journal.committed else {
        return match (degraded, state.journal.held) {
            (_, true) => "held",
            (true, _) => "degraded",
            _ => "rotating",
        };
    };
    let settled = if committed.proven || files_only { "healthy" } else { "waiting" };
    match state.phase {
        _ if degraded => "degraded",
        Phase::Staging(_) | Phase::Verifying(_) | Phase::Forward(..) | Phase::Back(..) => "rotating",
        Phase::Waiting(Retry::Commit { .. } | Retry::Record { .. }) => "rotating",
        _ if state.journal.held => "held",
        _ => settled,
    }
}

/// On no committed generation, and not for lack of trying.
fn degraded(state: &State) -> bool {
    match state.phase {
        Phase::Waiting(Retry::Forward(..) | Retry::Back(_)) => true,
        Phase::Forward(Forward::Halt, _) => true,
        Phase::Forward(..) | Phase::Back(..) | Phase::Staging(_) | Phase::Verifying(_) => {
            state.attempt > 0 && !state.settled && state.backoff.is_none()
        }
        _ => false,
    }
}

/// Which generation an operator means.
pub(super) fn rollback_to(state: &State, to: Option<u64>) -> Result<u64, String> {
    let journal = &state.journal;
    let committed = journal.committed.ok_or("there is no committed generation to go back to yet")?.generation;
    let retained: Vec<u64> = journal.retained.clone();
    let list = retained.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    match to {
        Some(to) if retained.contains(&to) => Ok(to),
        Some(to) => Err(format!("generation {to} is not retained; these are: {list}")),
        None if journal.held && journal.intent.is_some() => Ok(committed),
        None => retained.iter().copied().filter(|g| *g < committed).max().ok_or_else(|| {
            format!("no generation before {committed} is retained (retained: {list}); `keep` says how many are")
        }),
    }
}
