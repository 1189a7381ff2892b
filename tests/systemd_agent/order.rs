//! What starts when: the agent is ready once its files are there, and a unit ordered after it starts then.

use crate::house::{House, config, secrets};

const HEALTH: &str =
    "    health: {type: systemd, unit: UNIT, interval: 200ms, timeout: 5s, within: 60s, successes: 2}\n";

fn lines(unit: &str, verb: &str) -> String {
    format!("    reload: {{type: systemd, unit: {unit}, verb: {verb}, timeout: 50s}}\n{}", HEALTH.replace("UNIT", unit))
}

#[test]
fn a_unit_that_is_not_started_yet_is_waiting_and_the_agent_is_ready() {
    let config = config("app", &lines("idle.service", "reload-or-restart"));
    let Some(house) = House::new("idle", &config, Some(&secrets("one"))) else { return };
    house.agent_unit("");
    house.sleeper("idle.service", "ExecReload=/bin/true");
    house.systemctl(&["start", &house.agent()]);
    assert_eq!(house.read("out/conf").as_deref(), Some("value=one"), "ready before its file was there");
    house.wait_state("app", "waiting");
    assert_eq!(house.active("idle.service"), "inactive", "a unit that nobody started was started");
    house.wait_outcomes(&["committed"]);
    house.systemctl(&["start", "idle.service"]);
    house.wait_state("app", "healthy");
}

/// The unit's job waits for the agent's, so the agent must be ready to see it end.
#[test]
fn an_agent_that_is_new_to_a_running_unit_does_not_wait_for_a_job_that_waits_for_it() {
    let Some(house) = House::new("late", &config("app", &lines("late.service", "restart")), Some(&secrets("one")))
    else {
        return;
    };
    house.agent_unit("");
    let after = format!("[Unit]\nAfter={0}\n[Service]\nExecStart=/bin/sleep infinity\n", house.agent());
    house.machine.unit("late.service", &after);
    house.systemctl(&["start", "late.service"]);
    let pid = house.show("late.service", "MainPID");
    house.systemctl(&["start", &house.agent()]);
    house.wait_state("app", "healthy");
    assert_ne!(house.show("late.service", "MainPID"), pid);
    house.wait_outcomes(&["committed"]);
    assert!(!house.journal(&house.agent()).contains("did not end within"), "{}", house.journal(&house.agent()));
}

#[test]
fn a_unit_ordered_after_the_agent_starts_when_its_files_are_there_and_not_before() {
    let Some(house) = House::new("order", &config("app", &lines("order.service", "restart")), None) else { return };
    house.agent_unit("Restart=no");
    let agent = house.agent();
    let unit = format!(
        "[Unit]\nWants={agent}\nAfter={agent}\n[Service]\nType=exec\nEnvironmentFile=/srv/order/out/conf\nExecStart=/bin/sleep infinity\n"
    );
    house.machine.unit("order.service", &unit);
    house.systemctl(&["start", "--no-block", "order.service"]);
    // Nothing can be read: not ready, and says what it waits for.
    house.wait("status says why", |h| h.show(&agent, "StatusText").contains("app: ").then_some(()));
    // A reload of a config does not make it ready.
    house.systemctl(&["kill", "-s", "HUP", &agent]);
    house.wait("the config was read anew", |h| h.journal(&agent).contains("are taken up").then_some(()));
    assert_eq!((house.active(&agent), house.active("order.service")), ("activating".into(), "inactive".into()));
    house.put("secrets.yaml", &secrets("one"));
    house.wait_active("order.service");
    assert!(house.environ("order.service").contains(&b"value=one".to_vec()));
    house.wait_state("app", "healthy");
    assert_eq!(house.active(&agent), "active");

    // As after a boot, with files that were in memory: committed, but not there. And they cannot be written yet.
    house.systemctl(&["stop", "order.service", &agent]);
    house.machine.must(&["rm", "-r", "/srv/order/out"]);
    house.put("out", "in the way");
    house.systemctl(&["start", "--no-block", "order.service"]);
    house.wait("it cannot write", |h| h.show(&agent, "StatusText").contains("/srv/order/out").then_some(()));
    assert_eq!((house.active(&agent), house.active("order.service")), ("activating".into(), "inactive".into()));
    house.machine.must(&["sh", "-c", "rm /srv/order/out && mkdir /srv/order/out"]);
    house.wait_active("order.service");
    assert!(house.environ("order.service").contains(&b"value=one".to_vec()));
    house.wait_state("app", "healthy");
}
