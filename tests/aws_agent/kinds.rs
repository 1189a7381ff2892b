//! What a secret may hold, and how it may be named.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::aws::moto::{moto, unique};
use crate::aws::world::{Setup, World};

/// Renders once with one secret of this text (JSON: of that document), and answers the file.
fn rendered(text: &Value, locator: Value, conf: &str) -> Option<(i32, String, String)> {
    let moto = moto()?;
    let name = unique("kinds");
    moto.create(&name, &text.as_str().map_or_else(|| text.to_string(), str::to_owned));
    let mut setup = Setup::one(&name);
    setup.conf = conf.to_owned();
    for (key, value) in locator.as_object().unwrap() {
        setup.secrets["app"][key] = value.clone();
    }
    let world = World::new(&moto.address(), &setup);
    let (code, out, err) = world.agent.call(&["render", "--once"]);
    Some((code, world.agent.read("out/conf"), format!("{out}{err}")))
}

#[test]
fn an_object_is_fields_with_their_kinds() {
    let text = json!({"port": 5432, "ratio": 1.50, "on": true, "off": false, "name": "ä \"quoted\"\n", "none": null});
    let conf = "{{ secrets.app.port }} {{ secrets.app.ratio }} {{ secrets.app.on }} {{ secrets.app.off }} \
                {{ secrets.app.name }}";
    let Some((code, file, said)) = rendered(&text, json!({}), conf) else { return };
    assert_eq!((code, file.as_str()), (0, "5432 1.5 true false ä \"quoted\"\n"), "{said}");
}

#[test]
fn a_nested_object_is_reached_by_its_key() {
    let text = json!({"eu": {"db": {"user": "app", "password": "of-1"}}, "us": {}});
    let conf = "{{ secrets.app.user }}:{{ secrets.app.password }}";
    let Some((code, file, said)) = rendered(&text, json!({"key": "eu.db"}), conf) else { return };
    assert_eq!((code, file.as_str()), (0, "app:of-1"), "{said}");
    let (code, file, said) = rendered(&text, json!({"key": "eu.cache"}), conf).unwrap();
    assert_eq!((code, file.as_str()), (66, ""), "{said}");
    assert!(said.contains("eu.cache") && !said.contains("of-1"), "{said}");
}

#[test]
fn what_is_no_object_is_raw() {
    for text in
        ["just a password", "", "[1, 2]", "\"quoted\"", "42", "{\"half\": ", "-----BEGIN X-----\nA\n-----END X-----\n"]
    {
        if text.is_empty() {
            continue;
        }
        let Some((code, file, said)) = rendered(&json!(text), json!({}), "{{ secrets.app.raw }}") else { return };
        assert_eq!((code, file.as_str()), (0, text), "{said}");
    }
}

#[test]
fn a_binary_secret_is_its_very_bytes() {
    let Some(moto) = moto() else { return };
    let bytes: Vec<u8> = (0..=255).cycle().take(2000).collect();
    let mut next = bytes.clone();
    next.reverse();
    let name = unique("binary");
    moto.call("CreateSecret", json!({"Name": name, "SecretBinary": STANDARD.encode(&bytes)}));
    let mut setup = Setup::one(&name);
    setup.conf = "{{ secrets.app.raw | b64encode }}\n".to_owned();
    setup.target = json!({"files": [
        {"path": "out/conf", "inline": setup.conf}, {"path": "out/bytes", "inline": "{{ secrets.app.raw }}"},
    ]});
    let mut world = World::started(&moto.address(), &setup);
    assert_eq!(world.serving(), [STANDARD.encode(&bytes)]);
    assert!(std::fs::read(world.path("out/bytes")).unwrap() == bytes);
    let token = crate::aws::moto::version(900_101);
    moto.call(
        "PutSecretValue",
        json!({
            "SecretId": name, "SecretBinary": STANDARD.encode(&next), "ClientRequestToken": token,
        }),
    );
    world.serves(&[&STANDARD.encode(&next)]);
    assert!(std::fs::read(world.path("out/bytes")).unwrap() == next);
}

#[test]
fn a_secret_is_named_by_its_name_its_arn_or_the_arn_without_the_end() {
    let Some(moto) = moto() else { return };
    let names: Vec<String> = (0..3).map(|_| unique("team/arn")).collect();
    let arns: Vec<String> = names.iter().map(|name| moto.create(name, r#"{"key": "of-1"}"#)).collect();
    let partial = arns[2].rsplit_once('-').unwrap().0;
    assert!(partial.ends_with(&names[2]));
    let of = |id: &str| json!({"store": "aws", "id": id, "poll": "1s"});
    // Each by itself, then all in one batch.
    for id in [names[0].as_str(), &arns[1], partial] {
        let world = World::new(&moto.address(), &Setup::one(id));
        let (code, out, err) = world.agent.call(&["render", "--once"]);
        assert_eq!((code, world.agent.read("out/conf").as_str()), (0, "of-1\n"), "{id}: {out}{err}");
    }
    let secrets = json!({"a": of(&names[0]), "b": of(&arns[1]), "c": of(partial)});
    let conf = "{{ secrets.a.key }}\n{{ secrets.b.key }}\n{{ secrets.c.key }}\n";
    let mut world = World::started(&moto.address(), &Setup::new(secrets, conf));
    assert_eq!(world.serving(), ["of-1"; 3]);
    names
        .iter()
        .enumerate()
        .for_each(|(n, name)| drop(moto.put(name, &json!({"key": format!("of-2-{n}")}).to_string())));
    world.serves(&["of-2-0", "of-2-1", "of-2-2"]);
}
