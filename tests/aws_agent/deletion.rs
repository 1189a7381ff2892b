//! A secret is deleted, restored, or made anew. What was rendered stays.

use serde_json::json;

use crate::aws::moto::{moto, unique};
use crate::aws::world::{Setup, World};

fn key(text: &str) -> String {
    json!({"key": text}).to_string()
}

#[test]
fn a_secret_scheduled_for_deletion_is_told_with_the_way_back_and_never_rendered_away() {
    let Some(moto) = moto() else { return };
    let name = unique("deletion");
    moto.create(&name, &key("of-1"));
    let mut world = World::started(&moto.address(), &Setup::overlapping(&name));
    let file = world.agent.read("out/conf");
    moto.call("DeleteSecret", json!({"SecretId": name, "RecoveryWindowInDays": 7}));
    world.failing("app", &[&name, "delet", "restore-secret"]);
    let target = world.agent.wait("the target is stale", |a| a.target("app").filter(|t| t["stale"] == true));
    assert_eq!(target["generation"], 1);
    let (code, out, _) = world.agent.call(&["status"]);
    assert_eq!(code, 0);
    assert!(out.contains("stale") && out.contains("restore-secret"), "{out}");
    assert_eq!((world.agent.read("out/conf"), world.starts()), (file.clone(), 1));
    // Over a restart, too.
    world.agent.stop();
    world.agent.start();
    world.failing("app", &["restore-secret"]);
    world.agent.wait("a child runs again", |a| (a.read("starts").lines().count() == 2).then_some(()));
    assert_eq!((world.agent.read("out/conf"), world.agent.outcomes().len()), (file, 1));
    moto.call("RestoreSecret", json!({"SecretId": name}));
    world.well("app");
    world.healthy();
    assert_eq!(world.agent.target("app").unwrap()["stale"], false);
    moto.put(&name, &key("of-2"));
    world.serves(&["of-2", "of-1"]);
}

#[test]
fn a_secret_made_anew_under_its_name_is_followed() {
    let Some(moto) = moto() else { return };
    let name = unique("deletion");
    moto.create(&name, &key("of-1"));
    let mut world = World::started(&moto.address(), &Setup::overlapping(&name));
    moto.call("DeleteSecret", json!({"SecretId": name, "ForceDeleteWithoutRecovery": true}));
    world.failing("app", &[&name]);
    assert_eq!((world.serving()[0].as_str(), world.starts()), ("of-1", 1));
    moto.create(&name, &key("of-2"));
    world.agent.wait_outcomes(&["committed", "committed"]);
    world.healthy();
    // The version before is not in the store any more: nobody promises it.
    assert_eq!(world.serving()[0], "of-2");
    world.well("app");
    world.read_again("app", 2);
    moto.put(&name, &key("of-3"));
    world.serves(&["of-3", "of-2"]);
}

#[test]
fn of_many_the_one_that_is_deleted_fails_alone() {
    let Some(moto) = moto() else { return };
    let names = [unique("deletion"), unique("deletion")];
    names.iter().for_each(|name| drop(moto.create(name, &key("of-1"))));
    let of = |id: &str| json!({"store": "aws", "id": id, "poll": "1s"});
    let setup =
        Setup::new(json!({"a": of(&names[0]), "b": of(&names[1])}), "{{ secrets.a.key }}\n{{ secrets.b.key }}\n");
    let mut world = World::started(&moto.address(), &setup);
    moto.call("DeleteSecret", json!({"SecretId": names[0], "RecoveryWindowInDays": 7}));
    world.failing("a", &[&names[0], "restore-secret"]);
    moto.put(&names[1], &key("of-2"));
    world.read_again("b", 2);
    world.well("b");
    moto.call("RestoreSecret", json!({"SecretId": names[0]}));
    world.serves(&["of-1", "of-2"]);
}
