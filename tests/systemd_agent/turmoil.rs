//! The agent is killed, systemd executes itself anew, the bus goes away: and all goes on.

use crate::house::{House, config, secrets};

const HEALTH: &str =
    "    health: {type: systemd, unit: UNIT, interval: 200ms, timeout: 5s, within: 60s, successes: 2}\n";

fn lines(unit: &str) -> String {
    format!("    reload: {{type: systemd, unit: {unit}, verb: reload, timeout: 50s}}\n{}", HEALTH.replace("UNIT", unit))
}

/// Waits for a gate where `out/conf` says `slow`.
fn gated(name: &str) -> String {
    format!(
        "ExecReload=/bin/sh -c 'touch /srv/{name}/asked; if grep -q slow /srv/{name}/out/conf; then \
         until test -e /srv/{name}/gate; do sleep 0.1; done; fi; cp /srv/{name}/out/conf /srv/{name}/seen'"
    )
}

#[test]
fn an_agent_killed_in_the_middle_of_a_reload_is_started_anew_and_goes_on() {
    let Some(house) = House::new("killed", &config("app", &lines("killed.service")), Some(&secrets("one"))) else {
        return;
    };
    house.agent_unit("Restart=on-failure");
    house.sleeper("killed.service", &gated("killed"));
    house.systemctl(&["start", &house.agent()]);
    house.systemctl(&["start", "killed.service"]);
    house.wait_state("app", "healthy");
    let agent = house.agent();
    let kill = || {
        let pid = house.show(&agent, "MainPID");
        house.systemctl(&["kill", "-s", "KILL", &agent]);
        house.wait("it runs again", |h| {
            let new = h.show(&agent, "MainPID");
            (h.active(&agent) == "active" && new != pid && new != "0").then_some(())
        });
    };
    house.put("secrets.yaml", &secrets("slow"));
    house.wait("the reload runs", |h| h.read("asked"));
    kill();
    house.machine.must(&["touch", &house.path("gate")]);
    house.wait_outcomes(&["committed", "committed"]);
    assert_eq!(house.read("seen").as_deref(), Some("value=slow"));
    // At rest, with a change while it is away.
    house.wait_state("app", "healthy");
    kill();
    house.put("secrets.yaml", &secrets("three"));
    house.wait_outcomes(&["committed"; 3]);
    assert_eq!(house.read("seen").as_deref(), Some("value=three"));
    house.wait_state("app", "healthy");
}

#[test]
fn a_re_executed_systemd_and_a_restarted_bus_cost_nothing() {
    let Some(house) = House::alone("turmoil", &config("app", &lines("turmoil.service")), Some(&secrets("one"))) else {
        return;
    };
    house.agent_unit("WatchdogSec=30s");
    house.sleeper("turmoil.service", &gated("turmoil"));
    let agent = house.agent();
    house.systemctl(&["start", &agent]);
    house.systemctl(&["start", "turmoil.service"]);
    house.wait_state("app", "healthy");
    let pid = house.show(&agent, "MainPID");
    house.systemctl(&["daemon-reexec"]);
    house.put("secrets.yaml", &secrets("two"));
    house.wait_file("seen", "value=two");
    house.systemctl(&["restart", "dbus.service"]);
    house.put("secrets.yaml", &secrets("three"));
    house.wait_file("seen", "value=three");
    // In the middle of a job.
    house.machine.must(&["rm", &house.path("asked")]);
    house.put("secrets.yaml", &secrets("slow"));
    house.wait("the reload runs", |h| h.read("asked"));
    house.systemctl(&["daemon-reexec"]);
    house.systemctl(&["restart", "dbus.service"]);
    house.machine.must(&["touch", &house.path("gate")]);
    house.wait_file("seen", "value=slow");
    house.wait_outcomes(&["committed"; 4]);
    house.wait_state("app", "healthy");
    assert_eq!((house.active(&agent), house.show(&agent, "MainPID")), ("active".into(), pid));
    assert_eq!(house.show(&agent, "NRestarts"), "0");
}

/// A unit that is ordered after the agent starts no sooner than the agent has stopped, if both are on their way.
#[test]
fn an_agent_that_is_stopped_does_not_wait_for_a_job_that_waits_for_it() {
    let text = config("app", &lines("mutual.service").replace("verb: reload", "verb: restart"));
    let Some(house) = House::new("mutual", &text, Some(&secrets("one"))) else { return };
    let agent = house.agent();
    house.agent_unit("");
    let unit = format!(
        "[Unit]\nAfter={agent}\nStartLimitIntervalSec=0\n[Service]\nExecStart=/bin/sh -c 'cp /srv/mutual/out/conf /srv/mutual/seen; exec sleep infinity'\n\
         ExecStop=/bin/sh -c 'touch /srv/mutual/asked; until test -e /srv/mutual/gate; do sleep 0.1; done'\n"
    );
    house.machine.unit("mutual.service", &unit);
    house.systemctl(&["start", &agent]);
    house.systemctl(&["start", "mutual.service"]);
    house.wait_state("app", "healthy");
    house.put("secrets.yaml", &secrets("two"));
    house.wait("the job runs", |h| h.read("asked"));
    house.systemctl(&["restart", "--no-block", &agent]);
    // Its own job waits for the unit's end. The unit's start then waits for the agent's end.
    house.wait("its job is queued", |h| h.systemctl(&["list-jobs"]).contains(&agent).then_some(()));
    let began = std::time::Instant::now();
    house.machine.must(&["touch", &house.path("gate")]);
    house.wait_file("seen", "value=two");
    house.wait_active(&agent);
    let log = house.journal(&agent);
    assert!(began.elapsed().as_secs() < 30, "it waited for {:?}:\n{log}", began.elapsed());
    assert!(log.contains("the unit is ordered after the agent's own"), "{log}");
    house.wait_outcomes(&["committed", "committed"]);
    house.wait_state("app", "healthy");
    assert_eq!(house.active("mutual.service"), "active");
}
