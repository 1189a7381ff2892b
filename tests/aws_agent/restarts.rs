//! The version before over a restart: the one that was in use, whatever label it still has.

use serde_json::json;

use crate::aws::moto::{moto, unique};
use crate::aws::world::{Setup, World};

fn key(text: &str) -> String {
    json!({"key": text}).to_string()
}

#[test]
fn a_restart_in_the_overlap_keeps_the_version_before() {
    let Some(moto) = moto() else { return };
    let name = unique("restarts");
    moto.create(&name, &key("of-1"));
    let mut world = World::started(&moto.address(), &Setup::overlapping(&name));
    moto.put(&name, &key("of-2"));
    world.serves(&["of-2", "of-1"]);
    for restarts in 1..=2 {
        world.agent.stop();
        world.agent.start();
        world.agent.wait("another child", |a| (a.read("starts").lines().count() == 2 + restarts).then_some(()));
        world.read_again("app", 2);
        world.healthy();
        assert_eq!((world.serving(), world.agent.outcomes().len()), (vec!["of-2".to_owned(), "of-1".to_owned()], 2));
    }
}

#[test]
fn after_two_rotations_while_it_was_away_previous_is_what_it_served_and_not_awsprevious() {
    let Some(moto) = moto() else { return };
    let name = unique("restarts");
    moto.create(&name, &key("of-1"));
    let mut world = World::started(&moto.address(), &Setup::overlapping(&name));
    world.agent.stop();
    moto.put(&name, &key("of-2"));
    moto.put(&name, &key("of-3"));
    world.agent.start();
    world.serves(&["of-3", "of-1"]);
    assert!(!world.served().contains(&"of-2".to_owned()));
    world.agent.stop();
    world.agent.start();
    world.read_again("app", 2);
    world.serves(&["of-3", "of-1"]);
}

#[test]
fn after_two_rotations_before_its_eyes_previous_is_the_second() {
    let Some(moto) = moto() else { return };
    let name = unique("restarts");
    moto.create(&name, &key("of-1"));
    let mut world = World::started(&moto.address(), &Setup::overlapping(&name));
    moto.put(&name, &key("of-2"));
    world.serves(&["of-2", "of-1"]);
    moto.put(&name, &key("of-3"));
    world.serves(&["of-3", "of-2"]);
    world.agent.stop();
    world.agent.start();
    world.read_again("app", 1);
    world.serves(&["of-3", "of-2"]);
    assert_eq!(world.agent.outcomes().len(), 3);
}
