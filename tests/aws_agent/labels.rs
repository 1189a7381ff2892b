//! Staging labels: what is rendered is the version that carries the label, when it carries it, and no other.

use serde_json::json;

use crate::aws::moto::{Moto, moto, unique, version};
use crate::aws::world::{Setup, World};

fn key(text: &str) -> String {
    json!({"key": text}).to_string()
}

/// A secret with one version, and an agent that serves it and the one before.
fn world(moto: &Moto) -> (World, String, String) {
    let name = unique("labels");
    moto.create(&name, &key("of-1"));
    let first = moto.labelled(&name, "AWSCURRENT").unwrap();
    let mut world = World::started(&moto.address(), &Setup::overlapping(&name));
    world.serves(&["of-1", ""]);
    (world, name, first)
}

/// Looks again twice, and finds nothing to do since `rotations`.
#[track_caller]
fn rests(world: &mut World, rotations: usize) {
    world.read_again("app", 2);
    assert_eq!((world.agent.outcomes().len(), world.starts()), (rotations, rotations), "{}", world.agent.log());
}

#[test]
fn a_pending_version_is_rendered_when_awscurrent_moves_to_it_and_no_label_move_before_or_after_does_anything() {
    let Some(moto) = moto() else { return };
    let (mut world, name, first) = world(moto);
    let second = moto.put_pending(&name, &key("of-2"));
    rests(&mut world, 1);
    moto.label(&name, "AWSCURRENT", Some(&second), Some(&first));
    assert_eq!(moto.labelled(&name, "AWSPENDING").as_ref(), Some(&second), "it has both");
    world.serves(&["of-2", "of-1"]);
    assert_eq!(world.secret("app").unwrap()["version"], second);
    moto.label(&name, "AWSPENDING", None, Some(&second));
    rests(&mut world, 2);
    // The next one begins to be made, and is given up.
    let third = moto.put_pending(&name, &key("of-3"));
    rests(&mut world, 2);
    moto.label(&name, "AWSPENDING", None, Some(&third));
    rests(&mut world, 2);
    assert_eq!(world.served(), ["of-1", "of-2"]);
}

#[test]
fn rotate_secret_is_followed_through_all_steps_of_its_lambda() {
    let Some(moto) = moto() else { return };
    let (mut world, name, first) = world(moto);
    let second = version(900_001);
    moto.call(
        "RotateSecret",
        json!({
            "SecretId": name, "ClientRequestToken": second, "RotationLambdaARN": moto.lambda(),
            "RotationRules": {"AutomaticallyAfterDays": 30},
        }),
    );
    // AWSPENDING is listed before its version has a value.
    assert_eq!(moto.labelled(&name, "AWSPENDING").as_ref(), Some(&second));
    rests(&mut world, 1);
    moto.call("PutSecretValue", json!({
        "SecretId": name, "SecretString": key("of-2"), "ClientRequestToken": second, "VersionStages": ["AWSPENDING"],
    }));
    rests(&mut world, 1);
    moto.label(&name, "AWSCURRENT", Some(&second), Some(&first));
    world.serves(&["of-2", "of-1"]);
    moto.label(&name, "AWSPENDING", None, Some(&second));
    rests(&mut world, 2);
}

#[test]
fn a_current_version_without_a_value_is_told_and_not_taken() {
    let Some(moto) = moto() else { return };
    let (mut world, name, _) = world(moto);
    // Without a lambda, moto moves AWSCURRENT to a version that has none.
    moto.call("RotateSecret", json!({"SecretId": name, "RotationRules": {"AutomaticallyAfterDays": 30}}));
    world.failing("app", &[&name]);
    assert_eq!((world.serving(), world.starts()), (vec!["of-1".to_owned(), String::new()], 1));
    moto.put(&name, &key("of-3"));
    world.serves(&["of-3", "of-1"]);
    world.well("app");
}

#[test]
fn awspending_is_rendered_where_it_is_asked_for() {
    let Some(moto) = moto() else { return };
    let name = unique("labels");
    moto.create(&name, &key("of-1"));
    let second = moto.put_pending(&name, &key("of-2"));
    let mut setup = Setup::one(&name);
    setup.secrets["app"]["stage"] = "AWSPENDING".into();
    let mut world = World::started(&moto.address(), &setup);
    assert_eq!(world.serving(), ["of-2"]);
    moto.put_pending(&name, &key("of-3"));
    world.serves(&["of-3"]);
    assert!(second < moto.labelled(&name, "AWSPENDING").unwrap());
    // The label goes: there is nothing to read, and what was read stands.
    let third = moto.labelled(&name, "AWSPENDING").unwrap();
    moto.label(&name, "AWSPENDING", None, Some(&third));
    world.failing("app", &[&name, "AWSPENDING"]);
    assert_eq!((world.serving(), world.starts()), (vec!["of-3".to_owned()], 2));
}

#[test]
fn a_label_of_ones_own_is_followed_there_and_back() {
    let Some(moto) = moto() else { return };
    let name = unique("labels");
    moto.create(&name, &key("of-1"));
    let first = moto.labelled(&name, "AWSCURRENT").unwrap();
    let second = moto.put(&name, &key("of-2"));
    moto.label(&name, "BLUE", Some(&first), None);
    let mut setup = Setup::one(&name);
    setup.secrets["app"]["stage"] = "BLUE".into();
    let mut world = World::started(&moto.address(), &setup);
    assert_eq!(world.serving(), ["of-1"]);
    moto.label(&name, "BLUE", Some(&second), Some(&first));
    world.serves(&["of-2"]);
    moto.label(&name, "BLUE", Some(&first), Some(&second));
    world.serves(&["of-1"]);
    assert_eq!(world.agent.outcomes(), ["committed"; 3]);
}

#[test]
fn a_version_that_is_pinned_stays_whatever_is_current() {
    let Some(moto) = moto() else { return };
    let name = unique("labels");
    moto.create(&name, &key("of-1"));
    let mut setup = Setup::one(&name);
    setup.secrets["app"]["version_id"] = moto.labelled(&name, "AWSCURRENT").unwrap().into();
    moto.put(&name, &key("of-2"));
    let mut world = World::started(&moto.address(), &setup);
    assert_eq!(world.serving(), ["of-1"]);
    moto.put(&name, &key("of-3"));
    world.read_again("app", 2);
    assert_eq!((world.serving(), world.starts()), (vec!["of-1".to_owned()], 1));
}

#[test]
fn a_rollback_in_aws_is_followed_and_what_was_left_is_previous() {
    let Some(moto) = moto() else { return };
    let (mut world, name, first) = world(moto);
    let second = moto.put(&name, &key("of-2"));
    world.serves(&["of-2", "of-1"]);
    moto.label(&name, "AWSCURRENT", Some(&first), Some(&second));
    world.serves(&["of-1", "of-2"]);
    rests(&mut world, 3);
    moto.label(&name, "AWSCURRENT", Some(&second), Some(&first));
    world.serves(&["of-2", "of-1"]);
    rests(&mut world, 4);
}
