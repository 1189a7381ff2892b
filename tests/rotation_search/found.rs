//! Faults that only the longer bound reached, or only failures without end, kept as the shortest walks that showed them.

use leasehold::config::model::OnUnhealthy;
use leasehold::rotation::{
    Committed, Digest, Effect, Event, Failure, Intent, Journal, Outcome, Phase, Policy, Report, Retry, State, recover,
    step,
};

const CHILD: Policy = Policy { on_unhealthy: OnUnhealthy::Rollback, keep: 2, supervised: true };

fn committed() -> Option<Committed> {
    Some(Committed { generation: 0, digest: Digest(0), proven: true })
}

fn walk(journal: Journal, events: &[Event]) -> (State, Vec<Effect>) {
    events.iter().fold(recover(journal, CHILD, false), |(state, _), event| step(state, *event))
}

#[test]
fn an_intent_that_could_not_be_saved_is_saved_before_its_generation_is_published() {
    let (state, effects) = walk(
        Journal::default(),
        &[
            Event::Snapshot(Digest(0)),
            Event::Staged(0),
            Event::Done,
            Event::Failed(Failure::ForNow),
            Event::Died,
            Event::Timer,
        ],
    );
    assert!(matches!(effects[..], [Effect::Save(_)]), "{effects:?} in {:?}", state.phase);
}

#[test]
fn a_dropped_intent_that_may_be_on_disk_is_cleared_there_before_going_back() {
    let journal = Journal { committed: committed(), retained: vec![0], ..Journal::default() };
    let published = Event::Published { changed: false };
    let back = [published, Event::Done, Event::Done, Event::Done, Event::Done];
    let forward = [Event::Snapshot(Digest(1)), Event::Staged(1), Event::Done, Event::Failed(Failure::ForNow)];
    let (state, _) = walk(journal.clone(), &[&back[..], &forward, &[Event::Died]].concat());
    assert!(matches!(state.phase, Phase::Waiting(Retry::Back(_))), "{:?}", state.phase);
    let (_, effects) = step(state, Event::Timer);
    assert_eq!(effects, [Effect::Save(journal)]);
}

#[test]
fn a_quarantined_intent_is_not_tried_again_after_a_crash() {
    let intent = Intent { generation: 1, digest: Digest(1), hold: false, tries: 1 };
    let quarantined = vec![Digest(1)];
    let journal =
        Journal { committed: committed(), intent: Some(intent), quarantined, retained: vec![0], ..Journal::default() };
    assert_eq!(walk(journal, &[]).1, [Effect::Publish(0)]);
}

#[test]
fn a_rollback_that_was_held_and_released_does_not_hold_again() {
    let intent = Intent { generation: 0, digest: Digest(0), hold: true, tries: 1 };
    let journal =
        Journal { committed: committed(), intent: Some(intent), held: true, retained: vec![0], ..Journal::default() };
    let policy = Policy { on_unhealthy: OnUnhealthy::Hold, ..CHILD };
    let published = Event::Published { changed: false };
    let unhealthy = [published, Event::Done, Event::Failed(Failure::ForGood), Event::Done];
    let again = [Event::Release, published, Event::Done, Event::Done];
    let first = recover(journal, policy, false);
    let (state, effects) = unhealthy.iter().chain(&again).fold(first, |(state, _), event| step(state, *event));
    assert!(matches!(&effects[..], [Effect::Save(saved)] if !saved.held), "{effects:?} in {:?}", state.phase);
}

#[test]
fn a_process_that_can_never_be_told_is_asked_again_before_every_attempt_to_tell_it() {
    let unproven = committed().map(|committed| Committed { proven: false, ..committed });
    let journal = Journal { committed: unproven, retained: vec![0], ..Journal::default() };
    let failed = Event::Failed(Failure::ForGood);
    let attempt = [Event::Published { changed: false }, Event::Done, failed];
    let policy = Policy { supervised: false, ..CHILD };
    let (mut state, _) = recover(journal, policy, false);
    for _ in 0..3 {
        let mut effects = Vec::new();
        for event in attempt {
            (state, effects) = step(state, event);
        }
        assert_eq!(effects, [Effect::Reload { generation: 0, needed: true }], "in {:?}", state.phase);
        (state, _) = step(state, failed);
        assert!(matches!(state.phase, Phase::Waiting(Retry::Back(_))), "{:?}", state.phase);
        (state, effects) = step(state, Event::Timer);
        assert_eq!(effects, [Effect::Publish(0)]);
        assert!(!state.touched, "what is live is what it would be told");
    }
}

#[test]
fn a_rollback_whose_place_a_newer_snapshot_takes_on_the_way_back_is_told() {
    let journal = Journal { committed: committed(), retained: vec![0], ..Journal::default() };
    let published = Event::Published { changed: false };
    let started = [published, Event::Done, Event::Done, Event::Done, Event::Done];
    let unhealthy = [published, Event::Done, Event::Failed(Failure::ForGood)];
    let asked = [Event::Rollback(0, Digest(0)), Event::Done];
    let (state, _) = walk(journal, &[&started[..], &asked, &unhealthy, &unhealthy].concat());
    assert!(matches!(state.phase, Phase::Waiting(Retry::Back(_))), "{:?}", state.phase);
    let superseded = Report { outcome: Outcome::Superseded, generation: Some(0), digest: Digest(0) };
    let effects = step(state, Event::Snapshot(Digest(1))).1;
    assert_eq!(effects, [Effect::Report(superseded), Effect::Stage(Digest(1))]);
}
