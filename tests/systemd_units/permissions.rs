//! What the agent may do, and what it may not.

use crate::site::{AGENT, LITELLM, Site};

#[test]
fn the_agents_unit_is_exposed_to_at_most_2_and_every_unit_verifies_clean() {
    let Some(site) = Site::installed() else { return };
    let units = "/usr/local/lib/systemd/system";
    let output = site.machine.run(&[
        "systemd-analyze",
        "security",
        "--offline=true",
        "--threshold=20",
        &format!("{units}/leasehold@.service"),
        AGENT,
    ]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}");
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("Overall exposure level"), "{text}");
    let output = site.machine.run(&["systemd-analyze", "verify", "--man=no", AGENT, LITELLM, "litellm.socket"]);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}

#[test]
fn the_agents_user_may_manage_that_one_unit_by_those_verbs_and_nothing_else() {
    let Some(site) = Site::running() else { return };
    site.machine.unit("other.service", "[Service]\nType=exec\nExecStart=/bin/sleep infinity\nExecReload=/bin/true\n");
    site.systemctl(&["start", "other.service"]);
    let systemctl = |arguments: &[&str]| {
        let output = site.as_agent(&[&["systemctl", "--no-ask-password"], arguments].concat());
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let needed = ["reload", "restart", "try-restart", "reload-or-restart", "try-reload-or-restart", "reset-failed"];
    let never: [&[&str]; 7] =
        [&["start"], &["stop"], &["kill"], &["set-property", "CPUWeight=1"], &["freeze"], &["thaw"], &["clean"]];
    for unit in [LITELLM, "other.service", AGENT] {
        for verb in needed {
            let (allowed, told) = systemctl(&[verb, unit]);
            let denied = told.to_lowercase().contains("authentication required");
            assert_eq!((allowed, denied), (unit == LITELLM, unit != LITELLM), "{verb} {unit}: {told}");
        }
        for arguments in never {
            let (verb, more) = arguments.split_first().unwrap();
            let (allowed, told) = systemctl(&[&[*verb, unit], more].concat());
            assert!(!allowed && told.to_lowercase().contains("authentication required"), "{verb} {unit}: {told}");
        }
    }
    let others: [&[&str]; 5] =
        [&["disable", LITELLM], &["mask", LITELLM], &["daemon-reload"], &["reset-failed"], &["poweroff"]];
    for arguments in others {
        let (allowed, told) = systemctl(arguments);
        assert!(!allowed, "{arguments:?} was allowed: {told}");
    }
    assert_eq!(
        (site.show("other.service", "ActiveState"), site.show(LITELLM, "ActiveState")),
        ("active".into(), "active".into())
    );
}

#[test]
fn an_agent_that_is_pointed_at_another_unit_says_which_rule_is_missing() {
    let Some(site) = Site::installed() else { return };
    site.machine.unit("other.service", "[Service]\nType=exec\nExecStart=/bin/sleep infinity\n");
    site.edit_config("unit: litellm.service", "unit: other.service");
    site.systemctl(&["start", "other.service"]);
    site.systemctl(&["start", "--no-block", AGENT]);
    let target = site.wait("it is denied", |s| {
        s.state().filter(|t| t["reason"].as_str().is_some_and(|r| r.contains("access denied")))
    });
    let reason = target["reason"].as_str().unwrap();
    assert!(reason.starts_with("restart other.service: access denied ("), "{reason}");
    assert!(
        reason.contains("a polkit rule must grant org.freedesktop.systemd1.manage-units for this unit"),
        "{reason}"
    );
}

/// Files for another user, and a signal to it: each with its drop-in, and not without.
#[test]
fn the_drop_ins_add_what_the_base_unit_has_not() {
    let Some(site) = Site::installed() else { return };
    let config = "state_dir: /var/lib/leasehold/daemon\n\
        stores:\n  local: {type: file, path: daemon.secrets.yaml}\n\
        secrets:\n  app: {store: local}\n\
        targets:\n  daemon:\n    files:\n      - {path: /srv/daemon/conf, inline: 'v={{ secrets.app.value }}', owner: litellm}\n\
        \x20   reload: {type: signal, pidfile: /srv/daemon/pid, signal: HUP, expect: {uid: litellm}}\n\
        \x20   settle: {min: 0s, max: 0s}\n";
    let put = |value: &str| {
        site.machine.write("/etc/leasehold/next", &format!("app: {{value: {value}}}\n"));
        site.machine.must(&["sh", "-ec", "chmod 0640 /etc/leasehold/next; chgrp leasehold /etc/leasehold/next; mv /etc/leasehold/next /etc/leasehold/daemon.secrets.yaml"]);
    };
    site.machine.write("/etc/leasehold/daemon.yaml", config);
    put("one");
    site.machine.must(&["sh", "-ec", "mkdir /srv/daemon; chown leasehold: /srv/daemon"]);
    let daemon = "[Service]\nUser=litellm\nExecStart=/bin/bash -c 'trap \"cp /srv/daemon/conf /tmp/seen\" HUP; while :; do sleep 0.1; done'\n\
        ExecStartPost=+/bin/sh -c 'echo $MAINPID > /srv/daemon/pid; chown leasehold: /srv/daemon/pid'\n";
    site.machine.unit("daemon.service", daemon);
    site.systemctl(&["start", "daemon.service"]);
    let agent = "leasehold@daemon.service";
    let folder = format!("/etc/systemd/system/{agent}.d");
    site.machine.unit(&format!("{agent}.d/paths.conf"), "[Service]\nReadWritePaths=/srv/daemon\n");
    site.systemctl(&["start", "--no-block", agent]);
    site.wait("it may not give the file away", |s| s.show(agent, "StatusText").contains("not permitted").then_some(()));
    site.systemctl(&["stop", agent]);

    let copy = format!("cp /usr/local/share/leasehold/drop-ins/owner.conf {folder}/");
    site.machine.must(&["sh", "-ec", &copy]);
    site.systemctl(&["daemon-reload"]);
    site.systemctl(&["start", agent]);
    assert_eq!(site.machine.must(&["stat", "-c", "%U %a", "/srv/daemon/conf"]).trim(), "litellm 600");
    let log =
        || String::from_utf8_lossy(&site.machine.run(&["journalctl", "--no-pager", "-u", agent]).stdout).into_owned();
    assert!(!site.exists("/tmp/seen"), "signalled without CAP_KILL: {}", log());

    // Both: the later of two CapabilityBoundingSet= and AmbientCapabilities= adds to the one before.
    site.machine.must(&["cp", "/usr/local/share/leasehold/drop-ins/signal.conf", &folder]);
    site.systemctl(&["daemon-reload"]);
    site.systemctl(&["restart", agent]);
    put("two");
    site.wait("the daemon took it up", |s| s.read("/tmp/seen").filter(|text| text == "v=two"));
    assert_eq!(site.machine.must(&["stat", "-c", "%U %a", "/srv/daemon/conf"]).trim(), "litellm 600");
}
