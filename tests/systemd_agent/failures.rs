//! Reloads that fail, units that are not there, and a systemd that says no.

use crate::house::{AGENT, House, config, secrets};

/// Takes the file up unless it says `broken`, and answers only then.
const RELOAD: &str =
    "ExecReload=/bin/sh -c '! grep -q broken /srv/NAME/out/conf && cp /srv/NAME/out/conf /srv/NAME/seen'";

fn systemd(unit: &str, verb: &str) -> String {
    format!("    reload: {{type: systemd, unit: {unit}, verb: {verb}, timeout: 50s}}\n")
}

#[test]
fn a_changed_secret_reaches_a_unit_by_reload_and_by_restart() {
    let text = config("reloads", &systemd("verb-reload.service", "reload"));
    let second = text.split("targets:\n").nth(1).unwrap().replace("reloads", "restarts").replace("out/conf", "out/env");
    let text =
        text + &second.replace("verb-reload.service", "verb-restart.service").replace("verb: reload", "verb: restart");
    let Some(house) = House::new("verbs", &text, Some(&secrets("one"))) else { return };
    house.agent_unit("");
    house.sleeper("verb-reload.service", &RELOAD.replace("NAME", "verbs"));
    house.sleeper("verb-restart.service", "EnvironmentFile=/srv/verbs/out/env");
    house.systemctl(&["start", &house.agent()]);
    house.systemctl(&["start", "verb-reload.service", "verb-restart.service"]);
    house.wait_state("reloads", "healthy");
    house.wait_state("restarts", "healthy");
    let pid = |unit: &str| house.show(unit, "MainPID");
    let before = (pid("verb-reload.service"), pid("verb-restart.service"));
    house.put("secrets.yaml", &secrets("two"));
    house.wait_outcomes(&["committed"; 4]);
    assert_eq!(house.read("seen").as_deref(), Some("value=two"));
    assert_eq!(pid("verb-reload.service"), before.0, "a reload changed the process");
    assert_ne!(pid("verb-restart.service"), before.1, "a restart did not");
    assert!(house.environ("verb-restart.service").contains(&b"value=two".to_vec()));
}

#[test]
fn a_reload_that_the_unit_refuses_is_rolled_back_and_the_next_value_goes_through() {
    let Some(house) =
        House::new("refused", &config("app", &systemd("refused.service", "reload")), Some(&secrets("one")))
    else {
        return;
    };
    house.agent_unit("");
    house.sleeper("refused.service", &RELOAD.replace("NAME", "refused"));
    house.systemctl(&["start", "refused.service"]);
    let pid = house.show("refused.service", "MainPID");
    house.systemctl(&["start", &house.agent()]);
    house.wait_outcomes(&["committed"]);
    house.put("secrets.yaml", &secrets("broken"));
    house.wait_outcomes(&["committed", "rolled_back"]);
    let target = house.wait_state("app", "healthy");
    let reason = target["reason"].as_str().unwrap_or_default();
    assert!(reason.starts_with("reload refused.service: the job failed, the unit is now active"), "{target}");
    assert_eq!(house.read("out/conf").as_deref(), Some("value=one"));
    assert_eq!(house.read("seen").as_deref(), Some("value=one"), "the unit was not told to go back");
    assert_eq!((house.active("refused.service"), house.show("refused.service", "MainPID")), ("active".into(), pid));
    house.put("secrets.yaml", &secrets("three"));
    house.wait_outcomes(&["committed", "rolled_back", "committed"]);
    assert_eq!(house.read("seen").as_deref(), Some("value=three"));
}

/// `health.type: systemd` sees what the job did not: a start that was fine, and an end a while later.
#[test]
fn a_unit_that_ends_a_while_after_its_restart_is_unhealthy_and_runs_again_on_the_bytes_before() {
    let health =
        "    health: {type: systemd, unit: dies.service, interval: 200ms, timeout: 5s, within: 8s, successes: 20}\n";
    let text = config("app", &(systemd("dies.service", "restart") + health));
    let Some(house) = House::new("dies", &text, Some(&secrets("one"))) else { return };
    house.agent_unit("");
    let unit = "[Unit]\nStartLimitIntervalSec=0\n[Service]\n\
        ExecStart=/bin/sh -c 'grep -q broken /srv/dies/out/conf && { sleep 1.5; exit 3; }; exec sleep infinity'\n";
    house.machine.unit("dies.service", unit);
    house.systemctl(&["start", &house.agent()]);
    house.systemctl(&["start", "dies.service"]);
    house.wait_state("app", "healthy");
    house.put("secrets.yaml", &secrets("broken"));
    house.wait_outcomes(&["committed", "rolled_back"]);
    let target = house.wait_state("app", "healthy");
    let reason = target["reason"].as_str().unwrap_or_default();
    assert!(reason.contains("unit dies.service: is failed (failed, exit-code), expected active"), "{reason}");
    assert_eq!(house.read("out/conf").as_deref(), Some("value=one"));
    assert_eq!(house.active("dies.service"), "active");
}

#[test]
fn a_unit_that_does_not_exist_leaves_the_old_files_and_is_found_when_it_appears() {
    let Some(house) = House::new("absent", &config("app", &systemd("absent.service", "reload")), Some(&secrets("one")))
    else {
        return;
    };
    let unit = RELOAD.replace("NAME", "absent");
    house.agent_unit("");
    house.sleeper("absent.service", &unit);
    house.systemctl(&["start", "absent.service", &house.agent()]);
    house.wait_outcomes(&["committed"]);
    let pid = house.show(&house.agent(), "MainPID");
    house.systemctl(&["stop", "absent.service"]);
    house.machine.must(&["rm", "/etc/systemd/system/absent.service"]);
    house.systemctl(&["daemon-reload"]);
    house.put("secrets.yaml", &secrets("two"));
    let target = house.wait_state("app", "degraded");
    assert_eq!(target["reason"], "reload absent.service: there is no such unit", "{target}");
    house.wait("the bytes before are back", |h| h.read("out/conf").filter(|text| text == "value=one"));
    // Masked is no better, and says so.
    house.systemctl(&["mask", "absent.service"]);
    house.wait("it is masked", |h| {
        h.target("app").filter(|t| t["reason"].as_str().is_some_and(|r| r.contains("is masked (`systemctl unmask`)")))
    });
    house.systemctl(&["unmask", "absent.service"]);
    house.sleeper("absent.service", &unit);
    house.systemctl(&["start", "absent.service"]);
    house.wait_state("app", "healthy");
    house.wait_file("seen", "value=two");
    assert_eq!(house.show(&house.agent(), "MainPID"), pid, "it took a restart of the agent");
}

#[test]
fn an_agent_without_permission_says_which_and_goes_on_once_polkit_allows_it() {
    let Some(house) = House::new("denied", &config("app", &systemd("denied.service", "reload")), Some(&secrets("one")))
    else {
        return;
    };
    house.machine.must(&["useradd", "--system", "keeper"]);
    house.machine.must(&["chown", "-R", "keeper:", &house.path("")]);
    house.agent_unit("User=keeper\nNoNewPrivileges=yes");
    house.sleeper("denied.service", &RELOAD.replace("NAME", "denied"));
    // Not started: nothing needs to be allowed yet.
    house.systemctl(&["start", &house.agent()]);
    house.wait_state("app", "waiting");
    house.systemctl(&["start", "denied.service"]);
    house.wait_state("app", "healthy");
    let pid = house.show(&house.agent(), "MainPID");
    house.put("secrets.yaml", &secrets("two"));
    let target = house.wait_state("app", "degraded");
    let reason = target["reason"].as_str().unwrap_or_default();
    let rule = "a polkit rule must grant org.freedesktop.systemd1.manage-units for this unit to the agent's user";
    assert!(reason.starts_with("reload denied.service: access denied (") && reason.contains(rule), "{reason}");
    house.wait("the bytes before are back", |h| h.read("out/conf").filter(|text| text == "value=one"));
    let rule = "polkit.addRule(function(action, subject) {\n\
        if (action.id == 'org.freedesktop.systemd1.manage-units' && action.lookup('unit') == 'denied.service'\n\
            && subject.user == 'keeper') return polkit.Result.YES;\n});\n";
    house.machine.write("/etc/polkit-1/rules.d/50-keeper.rules", rule);
    house.machine.must(&["chmod", "-R", "a+rX", "/etc/polkit-1/rules.d"]);
    house.wait_file("seen", "value=two");
    house.wait_state("app", "healthy");
    assert_eq!(house.show(&house.agent(), "MainPID"), pid, "it took a restart of the agent");
    let check = house.machine.run(&[AGENT, "check", "--offline", "--config", &house.path("agent.yaml")]);
    assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stderr));
}
