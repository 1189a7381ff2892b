//! What the runbook does by hand, end to end.

use serde_json::json;

use crate::aws::moto::{REGION, moto, unique};
use crate::aws::world::{Setup, World};

/// Runs with the env file's variables, as the real process would.
const CHILD: &str = "echo started >>starts\nset -a; . ./out/conf; set +a\nenv | grep -E '^AWS_(ACCESS|SECRET|SESSION)' | sort >serving.next\n\
                     mv serving.next serving\nexec sleep 100000\n";

fn lines(n: u32) -> [String; 2] {
    [format!("AWS_ACCESS_KEY_ID=AKIA{n}EXAMPLE"), format!("AWS_SECRET_ACCESS_KEY=wJalr/{n}+bPxRfi$CY EXAMPLE'KEY")]
}

fn keys(n: u32) -> String {
    let lines = lines(n);
    let value = |line: &String| line.split_once('=').unwrap().1.to_owned();
    json!({"access_key": value(&lines[0]), "secret_key": value(&lines[1])}).to_string()
}

fn setup(overlap: &str) -> Setup {
    let bedrock = json!({"store": "aws", "id": "litellm/aws-credentials", "poll": "1s", "overlap": overlap});
    let mut setup = Setup::new(json!({"bedrock": bedrock}), "");
    let previous = "{% if previous.bedrock.access_key is defined %}{{ previous.bedrock.access_key }}{% endif %}";
    let env = json!({
        "AWS_ACCESS_KEY_ID": "{{ secrets.bedrock.access_key }}",
        "AWS_SECRET_ACCESS_KEY": "{{ secrets.bedrock.secret_key }}",
    });
    setup.target = json!({
        "files": [{"path": "out/conf", "env": env, "format": "shell"}, {"path": "out/previous", "inline": previous}],
        "health": {"run": ["sh", "-c", "grep -q ^AWS_SECRET serving"]},
    });
    setup
}

#[test]
fn put_secret_value_reaches_the_env_file_and_the_child_and_the_version_before_stays_for_the_overlap() {
    let Some(moto) = moto() else { return };
    moto.create("litellm/aws-credentials", &keys(1));
    let mut world = World::new(&moto.address(), &setup("8s"));
    world.put("child", CHILD);
    world.agent.start();
    world.healthy();
    assert_eq!(world.serving(), lines(1), "and of the agent's own credentials nothing");
    assert_eq!(world.agent.read("out/previous"), "");
    // Polls that find nothing move nothing.
    world.read_again("bedrock", 2);
    assert_eq!((world.starts(), world.agent.outcomes().len()), (1, 1));
    let version = moto.put("litellm/aws-credentials", &keys(2));
    world.serves(&lines(2).each_ref().map(String::as_str));
    assert_eq!(world.agent.read("out/previous"), "AKIA1EXAMPLE", "it stays");
    let status = world.secret("bedrock").unwrap();
    assert_eq!(status["version"], version);
    assert!(status["overlap_until"].is_string(), "{status}");
    assert_eq!(world.agent.history()[1]["changed"]["bedrock"], version);
    world.agent.wait_file("out/previous", "");
    world.agent.wait_outcomes(&["committed"; 3]);
    assert_eq!(world.serving(), lines(2));
    let (code, out, _) = world.agent.call(&["status"]);
    assert_eq!(code, 0);
    assert!(out.contains("litellm/aws-credentials") || out.contains("bedrock"), "{out}");
}

#[test]
fn the_store_of_a_region_that_the_config_names_is_asked_there() {
    let Some(moto) = moto() else { return };
    let name = unique("region");
    moto.create(&name, r#"{"key": "of-1"}"#);
    let mut setup = Setup::one(&name);
    setup.store = json!({"region": REGION, "endpoint_url": moto.address()});
    let mut world = World::new("http://127.0.0.1:9", &setup);
    world.env("AWS_REGION", Some("eu-central-1"));
    let (code, _, err) = world.agent.call(&["render", "--once"]);
    assert_eq!((code, world.agent.read("out/conf").as_str()), (0, "of-1\n"), "{err}");
    world.agent.start();
    world.serves(&["of-1"]);
}

#[test]
fn several_secrets_that_are_read_together_change_each_for_itself() {
    let Some(moto) = moto() else { return };
    let names: Vec<String> = (0..25).map(|_| unique("many")).collect();
    names.iter().for_each(|name| drop(moto.create(name, r#"{"key": "of-1"}"#)));
    let secrets = names.iter().enumerate();
    let secrets = secrets.map(|(n, id)| (format!("s{n}"), json!({"store": "aws", "id": id, "poll": "1s"}))).collect();
    let conf: String = (0..25).map(|n| format!("{{{{ secrets.s{n}.key }}}}\n")).collect();
    let mut world = World::started(&moto.address(), &Setup::new(secrets, &conf));
    assert_eq!(world.serving(), vec!["of-1"; 25]);
    moto.put(&names[7], r#"{"key": "of-2"}"#);
    let mut expected = vec!["of-1"; 25];
    expected[7] = "of-2";
    world.serves(&expected);
    assert_eq!(world.agent.outcomes(), ["committed", "committed"]);
    let changed = world.agent.history()[1]["changed"].clone();
    assert_eq!(changed.as_object().unwrap().keys().collect::<Vec<_>>(), ["s7"]);
}
