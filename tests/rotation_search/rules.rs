//! The rules of the machine, as invariants of a world and of a step between two. Those of a world at rest, and of one
//! that stopped, are in `rest.rs`; the words after the arrow are what a violation says.
//!
//! * One operation in flight, never cancelled -> "one operation in flight", "a phase has its operation, a wait its
//!   timer".
//! * Stage -> Verify -> Intend -> Publish -> Reload -> Probe -> Commit -> "what is published is on disk", "was verified",
//!   "nothing is published before its intent is on disk", "a reload that is needed is asked for", "what is committed
//!   is live", "was seen healthy", "is what runs".
//! * Whatever happens, recovery can tell -> "files that are not the committed ones have a witness on disk", "a process
//!   that is not on the committed generation has one too", "what the disk lacks is known to be unsaved".
//! * Stage or Verify fails for good: quarantined, never published -> "what fails for good before it is published is
//!   quarantined", "what is quarantined unpublished was never live". For now: wait, retry -> at rest "the newest
//!   snapshot is never lost", "what fails for now is not quarantined".
//! * Publish, Reload or Probe fails: back, or forward again where there is no refuge -> "a failure leads back", "without
//!   a refuge it goes on forward", "dead credentials are no refuge", at rest "nothing is half-way".
//! * On the way back: reloaded, probed, recorded, quarantined -> as forward, and "a digest that was rolled back for good
//!   is quarantined", "rolled back is told when it is on disk".
//! * Going back fails: degraded, retried, superseded -> "going back is never given up", at rest "a wait has a reason".
//! * A crash with an open intent: forward once more, then back -> "after a crash it goes forward once more, then back".
//! * Pruning and leases -> "pruning follows a journal that is on disk" and its neighbours, "the committed lease is never
//!   revoked", "the lease of a refuge is never revoked", "the lease of a running target is never revoked"; at rest "no
//!   superseded lease is left", "no generation is left over".
//! * Quarantine, until inputs change or `release` -> "a quarantined digest is not retried", "is not republished".
//! * Hold, until `release` -> "a hold is lifted only by release", "nothing is staged while an operator is waited for",
//!   "a held target is left as it is", at rest "an operator's rollback is never lost".
//! * `on_unhealthy` -> "an unhealthy candidate is treated as the policy says".
//! * Snapshots in flight -> "only the newest is staged", at rest "the newest snapshot is never lost".
//! * Not running yet -> "a target that is not running is no failure", "what was not probed is committed unproven only
//!   where nothing ran", "an unproven commit keeps the last generation that was seen healthy", "a target that appears is
//!   probed", "a target that appears is told before it is judged".
//! * First rotation unhealthy: files left, probing goes on, a child is halted -> "without a refuge it goes on forward",
//!   "a child without a refuge is halted".
//! * A supervised process that ended is started again -> at rest "a supervised process runs".
//! * Every rotation's end is told, once it is true -> "committed is told when it is on disk", at rest "every rotation's
//!   end was told".
//! * Stop: finished or rolled back -> "a stop leaves the committed files".
//! * And every world drains to rest when operations succeed (`explore.rs`).

use leasehold::config::model::OnUnhealthy;
use leasehold::rotation::{
    Back, Candidate, Committed, Digest, Effect, Event, Failure, Forward, Generation, Outcome, Phase, Report, Retry,
};

use crate::rest;
use crate::world::{Happened, Live, World, bit};

pub type Rule = Result<(), String>;

pub fn ensure(holds: bool, rule: &str) -> Rule {
    if holds { Ok(()) } else { Err(format!("broken: {rule}")) }
}

/// Every rule that speaks of one step.
pub fn check(before: &World, happened: &Happened, after: &World) -> Rule {
    let news = if before.flight == after.flight { None } else { after.flight.as_ref() };
    if let Some(operation) = news {
        operation_rules(after, operation)?;
    }
    for report in happened.reports() {
        report_rules(after, report)?;
    }
    if let Some(event) = happened.event() {
        answer_rules(before, event, after)?;
    }
    if before.disk != after.disk {
        journal_rules(before, after)?;
    }
    if after.state.phase == Phase::Rest && after.flight.is_none() {
        rest::rest_rules(after)?;
    }
    if after.stopped && !before.stopped {
        rest::stop_rules(after)?;
    }
    world_rules(after)
}

fn number(committed: Option<Committed>) -> Option<Generation> {
    committed.map(|c| c.generation)
}

/// What holds at every instant.
fn world_rules(world: &World) -> Rule {
    let (state, disk) = (&world.state, &world.disk);
    ensure(!world.crowded, "one operation in flight")?;
    ensure(state.policy == world.policy, "the policy is the operator's")?;
    let (flies, waits) = (world.flight.is_some(), world.timer);
    let agrees = match state.phase {
        Phase::Rest => !flies,
        Phase::Waiting(_) => !flies && waits,
        Phase::Stopped => !flies && !waits && world.stopped,
        _ => flies && !waits,
    };
    ensure(agrees, "a phase has its operation, a wait its timer")?;
    let saving = matches!(world.flight, Some(Effect::Save(_)));
    ensure(saving || state.unsaved || *disk == state.journal, "what the disk lacks is known to be unsaved")?;
    ensure(!world.held || state.journal.held, "a hold is lifted only by release")?;
    let witness = disk.intent.is_some() || disk.refuge.is_some();
    let live = match world.live {
        Live::Nothing => disk.committed.is_none(),
        Live::Whole(generation) => number(disk.committed) == Some(generation),
        Live::Mixed => false,
    };
    ensure(live || witness, "files that are not the committed ones have a witness on disk")?;
    let runs =
        !world.present || world.policy.supervised || world.taken.is_none() || world.taken == number(disk.committed);
    ensure(runs || witness, "a process that is not on the committed generation has a witness on disk")
}

fn operation_rules(world: &World, operation: &Effect) -> Rule {
    match operation {
        Effect::Publish(generation) => publish_rules(world, *generation),
        Effect::Stage(digest) => {
            ensure(!world.held, "nothing is staged while an operator is waited for")?;
            ensure(world.announced && digest.0 == world.newest, "only the newest is staged")?;
            ensure(world.condemned & (1 << digest.0) == 0, "a quarantined digest is not retried")
        }
        Effect::Reload { generation, needed } => {
            ensure(world.live == Live::Whole(*generation), "what is reloaded is live")?;
            // A stray one is told as soon as it is seen not to be healthy.
            let has = !world.present || world.policy.supervised || world.taken == Some(*generation) || world.stray;
            ensure(*needed || has, "a reload that is needed is asked for")
        }
        Effect::Probe(generation) => ensure(world.live == Live::Whole(*generation), "what is probed is live"),
        Effect::Prune { keep, using } => prune_rules(world, keep, using),
        _ => Ok(()),
    }
}

fn prune_rules(world: &World, keep: &[Generation], using: &[Generation]) -> Rule {
    ensure(world.disk == world.state.journal, "pruning follows a journal that is on disk")?;
    let committed = number(world.disk.committed);
    ensure(committed.is_some(), "pruning needs a committed generation")?;
    ensure(world.disk.intent.is_none(), "pruning needs a closed intent")?;
    ensure(Live::Whole(committed.unwrap_or(99)) == world.live, "pruning needs the committed files live")?;
    ensure(committed.is_some_and(|c| using.contains(&c)), "the committed lease is never revoked")?;
    let refuge = number(world.disk.refuge);
    ensure(refuge.is_none_or(|r| using.contains(&r)), "the lease of a refuge is never revoked")?;
    if let (true, Some(taken)) = (world.present, world.taken) {
        ensure(using.contains(&taken), "the lease of a running target is never revoked")?;
        ensure(keep.contains(&taken), "the generation of a running target is never removed")?;
    }
    let mut named = world.disk.retained.iter().copied().chain(committed).chain(refuge);
    ensure(named.all(|g| keep.contains(&g)), "a generation that the journal names is never removed")
}

fn publish_rules(world: &World, generation: Generation) -> Rule {
    let (state, disk) = (&world.state, &world.disk);
    let intended = disk.intent.is_some_and(|i| i.generation == generation);
    let back = [state.journal.committed, state.journal.refuge].map(number).contains(&Some(generation));
    ensure(world.staged & bit(generation) != 0, "what is published is on disk")?;
    ensure(world.verified & bit(generation) != 0, "what is published was verified")?;
    ensure(intended || back, "nothing is published before its intent is on disk")?;
    let committed = number(state.journal.committed);
    let no_refuge = committed.is_none_or(|c| world.dead & bit(c) != 0);
    if intended && !back {
        let lives = world.lives + u8::from(!world.published_this_life);
        ensure(lives <= 2 || disk.held || no_refuge, "after a crash it goes forward once more, then back")?;
        let digest = world.digest_of(generation);
        let condemned = world.condemned & (1 << digest) != 0 || disk.is_quarantined(Digest(digest));
        let operator = disk.intent.is_some_and(|i| i.hold);
        ensure(!condemned || operator || no_refuge, "a quarantined digest is not republished")?;
    }
    ensure(!world.held || intended || back, "a held target is left as it is")?;
    let dead = world.dead & bit(generation) != 0;
    ensure(!(dead && !intended && disk.intent.is_some()), "dead credentials are no refuge")
}

fn report_rules(world: &World, report: &Report) -> Rule {
    let generation = report.generation;
    let saved = number(world.disk.committed);
    match report.outcome {
        Outcome::Committed => ensure(saved.is_some() && saved == generation, "committed is told when it is on disk"),
        Outcome::RolledBack => {
            let back = saved.is_some_and(|c| world.live == Live::Whole(c));
            ensure(back && world.disk.intent.is_none(), "rolled back is told when it is on disk")
        }
        Outcome::Quarantined => {
            let live = generation.is_some_and(|g| world.live == Live::Whole(g));
            ensure(!live, "what is quarantined unpublished was never live")
        }
        Outcome::Held | Outcome::Superseded => Ok(()),
    }
}

/// What an answer must lead to.
fn answer_rules(before: &World, event: Event, after: &World) -> Rule {
    let failure = match event {
        Event::Failed(failure) => Some(failure),
        _ => None,
    };
    let phase = after.state.phase;
    match (before.state.phase, event) {
        (Phase::Forward(at, _), Event::NotRunning) => {
            let unproven =
                at == Forward::Reload && matches!(phase, Phase::Forward(Forward::Commit { proven: false }, _));
            return ensure(unproven, "a target that is not running is no failure");
        }
        (Phase::Back(..), Event::NotRunning) => {
            let unproven = matches!(phase, Phase::Back(Back::Record { proven: false }, _));
            return ensure(unproven, "a target that is not running is no failure");
        }
        (Phase::Rest, Event::Appeared) if before.state.journal.committed.is_some_and(|c| !c.proven) => {
            let (held_open, settled) = (before.state.journal.intent.is_some(), before.state.settled);
            let probed = matches!(after.flight, Some(Effect::Probe(_)));
            return ensure(probed || held_open || !settled, "a target that appears is probed");
        }
        _ => {}
    }
    unproven_rules(before, after)?;
    if before.state.stopping {
        return Ok(());
    }
    match (before.state.phase, failure) {
        (Phase::Staging(digest) | Phase::Verifying(Candidate { digest, .. }), Some(Failure::ForGood)) => ensure(
            after.state.journal.is_quarantined(digest),
            "what fails for good before it is published is quarantined",
        ),
        (Phase::Staging(digest) | Phase::Verifying(Candidate { digest, .. }), Some(Failure::ForNow)) => {
            ensure(!after.state.journal.is_quarantined(digest), "what fails for now is not quarantined")
        }
        (Phase::Forward(Forward::Probe, _) | Phase::Back(Back::Probe, _), Some(_)) if before.unheard => {
            let told = matches!(after.flight, Some(Effect::Reload { needed: true, .. }));
            ensure(told, "a target that appears is told before it is judged")
        }
        (Phase::Forward(at, candidate), Some(failure)) => forward_failed(before, at, candidate, failure, after),
        (Phase::Back(_, plan), Some(_)) => {
            let ignored = before.on_unhealthy() == OnUnhealthy::Ignore;
            let goes_on = match phase {
                Phase::Waiting(Retry::Back(next)) => next.to.generation == plan.to.generation,
                Phase::Waiting(Retry::Record { plan: next, .. }) => next == plan,
                Phase::Back(Back::Publish, next) => next.to.generation != plan.to.generation,
                Phase::Back(Back::Record { .. }, _) => ignored,
                Phase::Staging(_) => true,
                _ => false,
            };
            ensure(goes_on, "going back is never given up")
        }
        _ => Ok(()),
    }
}

/// A commit or record as unproven begins only where nothing ran, or while winding up.
fn unproven_rules(before: &World, after: &World) -> Rule {
    let unproven = |phase| {
        matches!(
            phase,
            Phase::Forward(Forward::Commit { proven: false }, _)
                | Phase::Back(Back::Record { proven: false }, _)
                | Phase::Waiting(Retry::Commit { proven: false, .. } | Retry::Record { proven: false, .. })
        )
    };
    let begins = unproven(after.state.phase) && !unproven(before.state.phase);
    ensure(!begins || after.state.stopping, "what was not probed is committed unproven only where nothing ran")
}

/// A candidate's publish, reload or probe failed, and nobody is winding up.
fn forward_failed(before: &World, at: Forward, candidate: Candidate, failure: Failure, after: &World) -> Rule {
    if !matches!(at, Forward::Publish | Forward::Reload | Forward::Probe) {
        return Ok(());
    }
    let phase = after.state.phase;
    if at == Forward::Probe && before.on_unhealthy() != OnUnhealthy::Rollback {
        let as_told = match before.on_unhealthy() {
            OnUnhealthy::Ignore => matches!(phase, Phase::Forward(Forward::Commit { proven: true }, _)),
            _ => phase == Phase::Forward(Forward::Hold, candidate) && after.state.journal.held,
        };
        return ensure(as_told, "an unhealthy candidate is treated as the policy says");
    }
    if let Some(committed) = before.state.journal.committed.filter(|c| before.dead & bit(c.generation) == 0) {
        let back = matches!(phase, Phase::Back(Back::Publish, plan)
            if plan.to == committed && plan.failed == Some(candidate));
        ensure(back, "a failure leads back")?;
        let refused = after.state.journal.is_quarantined(candidate.digest);
        let was = before.state.journal.is_quarantined(candidate.digest);
        return match failure {
            _ if candidate.hold => Ok(()),
            Failure::ForGood => ensure(refused, "a digest that was rolled back for good is quarantined"),
            Failure::ForNow => ensure(was || !refused, "what fails for now is not quarantined"),
        };
    }
    let goes_on = match phase {
        Phase::Waiting(Retry::Forward(_, next)) | Phase::Forward(Forward::Halt, next) => next == candidate,
        Phase::Staging(_) => true,
        _ => false,
    };
    ensure(goes_on, "without a refuge it goes on forward")?;
    let halted = matches!(phase, Phase::Forward(Forward::Halt, _) | Phase::Staging(_));
    let child = before.policy.supervised && at == Forward::Probe;
    ensure(halted || !child, "a child without a refuge is halted")
}

fn journal_rules(before: &World, after: &World) -> Rule {
    let (Some(committed), old) = (after.disk.committed, before.disk.committed) else {
        return ensure(before.disk.committed.is_none(), "a committed generation is not forgotten");
    };
    if !committed.proven {
        let last = old.filter(|c| c.proven).or(before.disk.refuge).filter(|c| c.generation != committed.generation);
        ensure(
            number(after.disk.refuge) == number(last),
            "an unproven commit keeps the last generation that was seen healthy",
        )?;
    }
    if old.is_some_and(|o| o.generation == committed.generation && o.proven == committed.proven) {
        return Ok(());
    }
    ensure(after.live == Live::Whole(committed.generation), "what is committed is live")?;
    if !committed.proven || after.state.stopping || before.state.stopping {
        return Ok(());
    }
    let seen = before.proven == Some(committed.generation) || after.on_unhealthy() == OnUnhealthy::Ignore;
    ensure(seen, "what is committed as proven was seen healthy")?;
    if after.present && (after.taken.is_some() || after.stray) {
        ensure(after.taken == Some(committed.generation), "what is committed is what runs")?;
    }
    Ok(())
}
