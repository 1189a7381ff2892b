//! The rules of a world at rest, of one that stopped, and of one in which everything went well for long enough.

use leasehold::config::model::OnUnhealthy;
use leasehold::rotation::{Generation, Phase, Retry};

use crate::rules::{Rule, ensure};
use crate::world::{Live, World, bit, output};

/// At rest nothing is left to do.
pub fn rest_rules(world: &World) -> Rule {
    let journal = &world.state.journal;
    ensure(!world.state.unsaved && world.disk == *journal, "at rest the journal is on disk")?;
    ensure(world.live != Live::Mixed, "at rest nothing is half-way")?;
    ensure(world.asked.is_none(), "at rest an operator's rollback is never lost")?;
    ensure(world.begun == 0, "at rest every rotation's end was told")?;
    let held_open = world.held && journal.intent.is_some();
    if !world.held {
        ensure(journal.intent.is_none(), "at rest no intent is open, unless an operator is waited for")?;
        if world.announced {
            let committed = journal.committed.map(|c| output(world.digest_of(c.generation)));
            let refused = world.condemned & (1 << world.newest) != 0;
            ensure(committed == Some(output(world.newest)) || refused, "the newest snapshot is never lost")?;
        }
    }
    if let (true, Some(intent)) = (held_open, journal.intent) {
        ensure(world.live == Live::Whole(intent.generation), "what is held is live")?;
    }
    let Some(committed) = journal.committed else { return Ok(()) };
    ensure(world.state.settled || held_open, "at rest the target is where it should be")?;
    ensure(world.present || !world.policy.supervised, "at rest a supervised process runs")?;
    if held_open {
        return Ok(());
    }
    ensure(world.live == Live::Whole(committed.generation), "at rest the committed files are live")?;
    if committed.proven {
        let kept = journal.retained.iter().chain(journal.refuge.iter().map(|c| &c.generation));
        let kept = kept.fold(bit(committed.generation), |set, g| set | bit(*g));
        ensure(world.staged & !kept == 0, "at rest no generation is left over")?;
        ensure(world.leases & !bit(committed.generation) == 0, "at rest no superseded lease is left")?;
    }
    Ok(())
}

/// The agent wound up, and no operation failed since the last rest or start.
pub fn stop_rules(world: &World) -> Rule {
    if world.disturbed || world.held {
        return Ok(());
    }
    let committed = world.state.journal.committed.map(|c| c.generation);
    match committed {
        Some(committed) if world.dead & bit(committed) == 0 && world.bad != world.digest_of(committed) => {
            ensure(world.live == Live::Whole(committed), "a stop leaves the committed files")
        }
        _ => Ok(()),
    }
}

/// A wait that only the world can end: no newer inputs to take, and what it waits for is live and unhealthy itself.
pub fn hopeless(world: &World, retry: Retry) -> bool {
    let unwell = |g: Generation| world.digest_of(g) == world.bad || world.dead & bit(g) != 0;
    let tried = |g: Generation| unwell(g) && world.live == Live::Whole(g);
    let committed = world.state.journal.committed.map(|c| c.digest.0);
    let nothing_newer = |waited: u64| {
        world.held
            || world.newest == waited
            || committed == Some(world.newest)
            || world.condemned & (1 << world.newest) != 0
    };
    match retry {
        Retry::Forward(_, candidate) => nothing_newer(candidate.digest.0) && tried(candidate.generation),
        Retry::Back(plan) => nothing_newer(plan.to.digest.0) && tried(plan.to.generation),
        _ => false,
    }
}

/// The rules of a world in which everything went well for long enough.
pub fn at_rest(world: &World) -> Rule {
    match world.state.phase {
        Phase::Rest => {}
        Phase::Waiting(retry) => {
            return ensure(hopeless(world, retry), "a wait has a reason");
        }
        _ => return ensure(false, "a world drains to rest"),
    }
    rest_rules(world)?;
    let Some(committed) = world.state.journal.committed else {
        let refused = world.condemned & (1 << world.newest) != 0;
        return ensure(world.held || refused, "something is committed");
    };
    if world.state.journal.intent.is_none() && committed.proven && world.present && !lapsed(world) {
        ensure(world.taken == Some(committed.generation), "at rest the process runs the committed generation")?;
        let ignored = world.on_unhealthy() == OnUnhealthy::Ignore;
        ensure(world.healthy() || ignored, "at rest the target is healthy")?;
    }
    Ok(())
}

/// The committed generation was right when it was committed; that its credentials died since is the watch's to tell.
fn lapsed(world: &World) -> bool {
    world.state.journal.committed.is_some_and(|c| world.dead & bit(c.generation) != 0)
}
