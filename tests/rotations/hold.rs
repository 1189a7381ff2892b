//! `agent rollback` and `agent release`.

use crate::agent::Agent;
use crate::kit::{app, key};

fn on_generation_3() -> Agent {
    let mut agent = Agent::new(&app(""), &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    for (n, outcomes) in [(2, &["committed"; 2][..]), (3, &["committed"; 3])] {
        agent.secrets(&key(&format!("key-of-{n}")));
        agent.wait_outcomes(outcomes);
    }
    agent
}

#[test]
fn rollback_goes_one_back_and_holds_over_a_restart_until_release() {
    let mut agent = on_generation_3();
    let (code, out, err) = agent.call(&["rollback", "app"]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("generation 2"), "{out}");
    let state = agent.wait_state("app", "held");
    assert_eq!((&state["generation"], &state["held"]), (&2.into(), &true.into()), "{state}");
    assert_eq!(agent.read("out/conf"), "key=key-of-2");
    let entry = agent.history().pop().unwrap();
    assert_eq!((&entry["outcome"], &entry["generation"]), (&"committed".into(), &2.into()), "{entry}");

    agent.secrets(&key("key-of-4"));
    agent.call(&["refresh"]);
    assert_eq!(agent.stop().code(), Some(0));
    agent.start();
    assert_eq!(agent.wait_state("app", "held")["generation"], 2);
    agent.call(&["refresh"]);
    assert_eq!(agent.read("out/conf"), "key=key-of-2");

    let (code, out, _) = agent.call(&["release", "app"]);
    assert!(code == 0 && out.contains("the hold is lifted"), "{out}");
    agent.wait_file("out/conf", "key=key-of-4");
    assert_eq!(agent.wait_state("app", "healthy")["held"], false);
}

#[test]
fn rollback_to_a_generation_goes_there() {
    let mut agent = on_generation_3();
    let (code, _, err) = agent.call(&["rollback", "app", "--to", "1"]);
    assert_eq!(code, 0, "{err}");
    agent.wait_file("out/conf", "key=key-of-1");
    assert_eq!(agent.wait_state("app", "held")["generation"], 1);
    agent.call(&["release", "app"]);
    agent.wait_file("out/conf", "key=key-of-3");
    agent.wait_state("app", "healthy");
}

#[test]
fn what_cannot_be_rolled_back_is_refused_with_what_there_is() {
    let mut agent = Agent::new(&app(""), &key("key-of-1"));
    agent.start();
    agent.wait_outcomes(&["committed"]);
    let (code, _, err) = agent.call(&["rollback", "app"]);
    assert!(code == 66 && err.contains("no generation before 1"), "{code} {err}");
    let (code, _, err) = agent.call(&["rollback", "app", "--to", "7"]);
    assert!(code == 66 && err.contains("generation 7 is not retained; these are: 1"), "{code} {err}");
    let (code, _, err) = agent.call(&["rollback", "other"]);
    assert!(code == 64 && err.contains("there are: app"), "{code} {err}");
    let (code, out, _) = agent.call(&["release", "app"]);
    assert!(code == 0 && out.contains("no hold and no quarantine"), "{out}");
    assert_eq!(agent.read("out/conf"), "key=key-of-1");
}
