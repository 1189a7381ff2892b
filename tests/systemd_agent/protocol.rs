//! What systemd is told: readiness, reloads, the watchdog, the end. And the example as it stands.

use std::time::{Duration, Instant};

use crate::house::{AGENT, House, config, secrets, skip};

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

#[test]
fn the_example_of_a_systemd_unit_works_as_it_stands() {
    let Some(mut house) = House::new("example", "", None) else { return };
    house.agent = "leasehold.service".into();
    let file = |name: &str| {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/systemd-unit").join(name);
        std::fs::read_to_string(path).unwrap()
    };
    house.machine.must(&["ln", "-s", AGENT, "/usr/bin/agent"]);
    house.machine.must(&["ln", "-s", "/usr/bin/sleep", "/usr/bin/mailer"]);
    house.machine.write("/etc/leasehold/agent.yaml", &file("agent.yaml"));
    house.machine.write("/etc/leasehold/secrets.yaml", &file("secrets.yaml"));
    house.machine.must(&["chmod", "-R", "go=", "/etc/leasehold"]);
    house.machine.unit("leasehold.service", &file("leasehold.service"));
    house.machine.unit("mailer.service", &file("mailer.service"));
    // The mailer is any program that stays.
    house.machine.unit("mailer.service.d/stays.conf", "[Service]\nExecStart=\nExecStart=/usr/bin/mailer infinity\n");
    let faults = house.machine.run(&["systemd-analyze", "verify", "leasehold.service", "mailer.service"]);
    let faults = String::from_utf8_lossy(&faults.stderr).into_owned();
    assert!(!faults.contains("leasehold.service") && !faults.contains("mailer.service"), "{faults}");

    house.systemctl(&["start", "mailer.service"]);
    let password = |h: &House| {
        let environ = h.environ("mailer.service");
        environ.iter().find_map(|v| v.strip_prefix(b"SMTP_PASSWORD=")).map(|v| String::from_utf8_lossy(v).into_owned())
    };
    assert_eq!(password(&house).as_deref(), Some("exam\"ple $password"));
    let pid = house.show("leasehold.service", "MainPID");
    house.systemctl(&["reload", "leasehold.service"]);
    let changed = file("secrets.yaml").replace("$password", "#2");
    house.machine.write("/etc/leasehold/secrets.next", &changed);
    house.machine.must(&["chmod", "600", "/etc/leasehold/secrets.next"]);
    house.machine.must(&["mv", "/etc/leasehold/secrets.next", "/etc/leasehold/secrets.yaml"]);
    house.wait("the mailer has the new password", |h| {
        password(h).filter(|p| p == "exam\"ple #2").or_else(|| {
            let log = h.journal("leasehold.service");
            assert!(!log.contains("rolled_back"), "{log}");
            None
        })
    });
    assert_eq!(house.show("leasehold.service", "MainPID"), pid);
    house.wait("both are in its history", |h| {
        let history = h.machine.run(&["agent", "history", "--json", "--config", "/etc/leasehold/agent.yaml"]);
        let history = String::from_utf8_lossy(&history.stdout).into_owned();
        (history.matches("\"committed\"").count() == 2).then_some(())
    });
    // The agent's own restart leaves the mailer alone.
    let mailer = house.show("mailer.service", "MainPID");
    house.systemctl(&["restart", "leasehold.service"]);
    house.systemctl(&["stop", "leasehold.service"]);
    assert_eq!((house.active("mailer.service"), house.show("mailer.service", "MainPID")), ("active".into(), mailer));
    assert_eq!(house.show("leasehold.service", "Result"), "success");
}
