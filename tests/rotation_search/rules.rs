//! The rules of the machine, as invariants of a world and of a step between two.

use leasehold::config::model::OnUnhealthy;
use leasehold::rotation::{Effect, Generation, Phase, Retry};

use crate::world::{Happened, Live, World, bit, output};

type Rule = Result<(), String>;

fn ensure(holds: bool, rule: &str) -> Rule {
    if holds { Ok(()) } else { Err(format!("broken: {rule}")) }
}

/// Every rule that speaks of one step.
pub fn check(before: &World, _happened: &Happened, after: &World) -> Rule {
    let news = if before.flight == after.flight { None } else { after.flight.as_ref() };
    if let Some(operation) = news {
        operation_rules(after, operation)?;
    }
    if before.disk != after.disk {
        journal_rules(before, after)?;
    }
    if after.state.phase == Phase::Rest && after.flight.is_none() {
        rest_rules(after)?;
    }
    if after.stopped && !before.stopped {
        stop_rules(after)?;
    }
    Ok(())
}

fn operation_rules(world: &World, operation: &Effect) -> Rule {
    match operation {
        Effect::Publish(generation) => publish_rules(world, *generation),
        Effect::Stage(digest) => {
            ensure(!world.state.journal.held, "nothing is staged while an operator is waited for")?;
            ensure(world.condemned & (1 << digest.0) == 0, "a quarantined digest is not retried")
        }
        Effect::Prune { keep, using } => {
            ensure(world.disk == world.state.journal, "pruning follows a journal that is on disk")?;
            let committed = world.disk.committed.map(|c| c.generation);
            ensure(committed.is_some(), "pruning needs a committed generation")?;
            ensure(world.disk.intent.is_none(), "pruning needs a closed intent")?;
            ensure(Live::Whole(committed.unwrap_or(99)) == world.live, "pruning needs the committed files live")?;
            ensure(committed.is_some_and(|c| using.contains(&c)), "the committed lease is never revoked")?;
            if let (true, Some(taken)) = (world.present, world.taken) {
                ensure(using.contains(&taken), "the lease of a running target is never revoked")?;
                ensure(keep.contains(&taken), "the generation of a running target is never removed")?;
            }
            let named = world.disk.committed.into_iter().chain(world.disk.refuge).map(|c| c.generation);
            for generation in named.chain(world.disk.retained.iter().copied()) {
                ensure(keep.contains(&generation), "a generation that the journal names is never removed")?;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

fn publish_rules(world: &World, generation: Generation) -> Rule {
    let named = |c: Option<leasehold::rotation::Committed>| c.map(|c| c.generation) == Some(generation);
    let intended = world.disk.intent.is_some_and(|i| i.generation == generation);
    let back = named(world.state.journal.committed) || named(world.state.journal.refuge);
    ensure(world.staged & bit(generation) != 0, "what is published is on disk")?;
    ensure(world.verified & bit(generation) != 0, "what is published was verified")?;
    ensure(intended || back, "nothing is published before its intent is on disk")?;
    ensure(world.lives <= 2 || world.disk.held || back, "after a crash it goes forward once more, then back")?;
    if !back {
        let digest = world.digest_of(generation);
        let operator = world.disk.intent.is_some_and(|i| i.hold);
        let durable = world.disk.is_quarantined(leasehold::rotation::Digest(digest));
        let no_refuge = world.state.expired || world.state.journal.committed.is_none();
        ensure(!durable || operator || no_refuge, "a quarantined digest is not republished")?;
    }
    let dead = world.dead & bit(generation) != 0;
    ensure(!(dead && !intended && world.disk.intent.is_some()), "dead credentials are no refuge")
}

fn journal_rules(before: &World, after: &World) -> Rule {
    let (Some(committed), old) = (after.disk.committed, before.disk.committed) else { return Ok(()) };
    if old == Some(committed) {
        return Ok(());
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
    if after.present && after.taken.is_some() {
        ensure(after.taken == Some(committed.generation), "what is committed is what runs")?;
    }
    Ok(())
}

/// At rest nothing is left to do.
fn rest_rules(world: &World) -> Rule {
    let journal = &world.state.journal;
    ensure(!world.state.unsaved && world.disk == *journal, "at rest the journal is on disk")?;
    let committed = journal.committed;
    if !journal.held {
        ensure(journal.intent.is_none(), "at rest no intent is open, unless an operator is waited for")?;
        if world.announced {
            let same = committed.is_some_and(|c| output(c.digest.0) == output(world.newest));
            let refused = journal.is_quarantined(leasehold::rotation::Digest(world.newest));
            ensure(same || refused, "the newest snapshot is never lost")?;
        }
    }
    if let (Some(committed), true) = (committed, world.state.settled) {
        ensure(world.live == Live::Whole(committed.generation), "at rest the committed files are live")?;
        if committed.proven && journal.intent.is_none() {
            let kept = journal.retained.iter().chain(journal.refuge.iter().map(|c| &c.generation));
            let kept = kept.fold(bit(committed.generation), |set, g| set | bit(*g));
            ensure(world.staged & !kept == 0, "at rest no generation is left over")?;
            ensure(world.leases & !bit(committed.generation) == 0, "at rest no superseded lease is left")?;
        }
    }
    Ok(())
}

fn stop_rules(world: &World) -> Rule {
    if world.disturbed || world.state.journal.held {
        return Ok(());
    }
    let committed = world.state.journal.committed.filter(|_| !world.state.expired).map(|c| c.generation);
    match committed {
        Some(committed) if world.dead & bit(committed) == 0 && world.bad != world.digest_of(committed) => {
            ensure(world.live == Live::Whole(committed), "an undisturbed stop leaves the committed files")
        }
        _ => Ok(()),
    }
}

/// A wait that only the world can end: nothing to go back to, or the refuge itself is unhealthy.
pub fn hopeless(world: &World, retry: Retry) -> bool {
    let unwell = |g: Generation| world.digest_of(g) == world.bad || world.dead & bit(g) != 0;
    match retry {
        Retry::Forward(_, candidate) => {
            let newest = leasehold::rotation::Digest(world.newest);
            let nothing_else = newest == candidate.digest || world.state.journal.is_quarantined(newest);
            nothing_else && unwell(candidate.generation)
        }
        Retry::Back(plan) => unwell(plan.to.generation),
        _ => false,
    }
}

/// The rules of a world in which everything went well for long enough.
pub fn at_rest(world: &World) -> Rule {
    match world.state.phase {
        Phase::Rest => {}
        Phase::Waiting(retry) => return ensure(hopeless(world, retry), "a wait has a reason"),
        _ => return ensure(false, "a world drains to rest"),
    }
    rest_rules(world)?;
    let Some(committed) = world.state.journal.committed else {
        return ensure(world.state.journal.held || !world.announced || world.condemned != 0, "something is committed");
    };
    if world.state.settled {
        let unproven = !committed.proven;
        ensure(
            world.healthy()
                || unproven
                || !world.present
                || world.on_unhealthy() == OnUnhealthy::Ignore
                || lapsed(world),
            "at rest the target is healthy",
        )?;
        if world.present && committed.proven && !lapsed(world) {
            ensure(world.taken == Some(committed.generation), "at rest the process runs the committed generation")?;
        }
    }
    Ok(())
}

/// The committed generation was right when it was committed; its credentials, or a process that came back by itself
/// from something unknown, are not this machine's to watch at rest.
fn lapsed(world: &World) -> bool {
    world.state.journal.committed.is_some_and(|c| world.dead & bit(c.generation) != 0) || world.taken.is_none()
}
