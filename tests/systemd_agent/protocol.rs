//! What systemd is told: readiness, reloads, the watchdog, the end.

use std::time::{Duration, Instant};

use crate::house::{House, config, secrets, skip};

const NOTHING: &str = "    reload: {type: none}\n";

/// `Type=notify-reload` is known since systemd 253.
fn knows_notify_reload(house: &House) -> bool {
    let version = house.systemctl(&["--version"]);
    let number = version.split_whitespace().nth(1).and_then(|n| n.parse::<u32>().ok()).expect("systemd's version");
    if number < 253 {
        skip(&format!("Type=notify-reload needs systemd 253, the container has {number}"));
    }
    number >= 253
}

#[test]
fn a_reload_is_told_as_notify_reload_wants_it_and_takes_the_config_up() {
    let Some(house) = House::new("hup", &config("app", NOTHING), Some(&secrets("one"))) else { return };
    if !knows_notify_reload(&house) {
        return;
    }
    house.agent_unit("Type=notify-reload\nTimeoutStartSec=50s");
    let agent = house.agent();
    house.systemctl(&["start", &agent]);
    let pid = house.show(&agent, "MainPID");
    assert_eq!(house.show(&agent, "StatusText"), "ready");
    for round in ["two", "three"] {
        house.put("agent.yaml", &config("app", NOTHING).replace("value=", &format!("{round}=")));
        // Waits for RELOADING with a MONOTONIC_USEC that is younger than its signal, and then for READY.
        house.systemctl(&["reload", &agent]);
        house.wait_file("out/conf", &format!("{round}=one"));
    }
    // What is faulty is refused, and the unit is no less up for it.
    house.put("agent.yaml", "targets: [");
    house.systemctl(&["reload", &agent]);
    let log = house.journal(&agent);
    assert!(log.contains("not taken up, all goes on as before"), "{log}");
    assert_eq!((house.active(&agent), house.show(&agent, "MainPID")), ("active".into(), pid));
    let told = house.show(&agent, "StatusText");
    assert!(told.contains("agent.yaml"), "systemctl status does not show that the config was refused: {told}");
    house.put("agent.yaml", &config("app", NOTHING));
    house.systemctl(&["reload", &agent]);
    assert_eq!(house.show(&agent, "StatusText"), "ready");
    house.wait_file("out/conf", "value=one");
}

#[test]
fn the_agent_stops_within_its_bound_and_cleanly() {
    let health = "    health: {type: command, run: [/bin/false], interval: 1s, timeout: 5s, within: 600s}\n";
    let text = config("app", &(NOTHING.to_owned() + health));
    let Some(house) = House::new("stops", &text, Some(&secrets("one"))) else { return };
    house.agent_unit("");
    let agent = house.agent();
    // Its files are there, and it waits for health: an operation in flight.
    house.systemctl(&["start", &agent]);
    let began = Instant::now();
    house.systemctl(&["stop", &agent]);
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    assert_eq!((house.show(&agent, "Result"), house.show(&agent, "ExecMainStatus")), ("success".into(), "0".into()));
    assert_eq!(house.show(&agent, "NRestarts"), "0");
}

#[test]
fn the_watchdog_is_fed_and_an_agent_that_hangs_is_started_anew() {
    let Some(house) = House::new("dog", &config("app", NOTHING), Some(&secrets("one"))) else { return };
    house.agent_unit("WatchdogSec=20s\nTimeoutAbortSec=1s\nRestart=on-failure");
    let agent = house.agent();
    house.systemctl(&["start", &agent]);
    let fed = |h: &House| h.show(&agent, "WatchdogTimestampMonotonic").parse::<u64>().unwrap();
    let first = fed(&house);
    house.wait("it was fed once more", |h| (fed(h) > first).then_some(()));
    assert_eq!(house.show(&agent, "NRestarts"), "0");
    let pid = house.show(&agent, "MainPID");
    house.put("secrets.yaml", &secrets("two"));
    house.wait_file("out/conf", "value=two");
    house.machine.must(&["kill", "-STOP", &pid]);
    house.put("secrets.yaml", &secrets("three"));
    house.wait("it was started anew", |h| (h.show(&agent, "NRestarts") == "1").then_some(()));
    house.wait_active(&agent);
    assert_ne!(house.show(&agent, "MainPID"), pid);
    assert!(house.journal(&agent).contains("Watchdog timeout"), "{}", house.journal(&agent));
    house.wait_file("out/conf", "value=three");
}
