//! Re-executed, reloaded, hung, rebooted: and nothing is rotated for it.

use crate::site::{AGENT, LITELLM, Site};

const FIRST: (&str, &str) = ("sk-ant-example-0001", "sk-example-master-0001");

#[test]
fn a_re_executed_systemd_a_reload_and_a_hung_agent_cost_no_rotation() {
    let Some(site) = Site::installed() else { return };
    site.machine.unit("leasehold@litellm.service.d/dog.conf", "[Service]\nWatchdogSec=10s\n");
    site.systemctl(&["enable", "--now", AGENT, LITELLM]);
    site.wait_state("healthy");
    let (agent, litellm) = (site.show(AGENT, "MainPID"), site.show(LITELLM, "MainPID"));
    site.systemctl(&["daemon-reexec"]);
    site.systemctl(&["reload", AGENT]);
    site.wait_state("healthy");
    assert_eq!((site.show(AGENT, "MainPID"), site.show(LITELLM, "MainPID")), (agent.clone(), litellm.clone()));
    assert_eq!(site.show(AGENT, "NRestarts"), "0");

    site.machine.must(&["kill", "-STOP", &agent]);
    site.wait("systemd starts it anew", |s| (s.show(AGENT, "NRestarts") == "1").then_some(()));
    site.wait("it is ready", |s| (s.show(AGENT, "ActiveState") == "active").then_some(()));
    site.wait_state("healthy");
    assert_ne!(site.show(AGENT, "MainPID"), agent);
    site.wait_outcomes(&["committed"]);
    site.systemctl(&["restart", AGENT]);
    site.wait_state("healthy");
    site.wait_outcomes(&["committed"]);
    assert_eq!(site.show(LITELLM, "MainPID"), litellm, "LiteLLM was restarted for nothing");
    // And it still works.
    site.put("sk-ant-after-0002", "sk-master-2");
    site.wait_answer("sk-ant-after-0002", "sk-master-2");
    site.wait_outcomes(&["committed", "committed"]);
}

#[test]
fn after_a_reboot_with_the_store_down_litellm_runs_on_the_last_good_files() {
    let Some(mut site) = Site::running() else { return };
    site.put("sk-ant-second-0002", "sk-master-2");
    site.wait_outcomes(&["committed", "committed"]);
    site.wait_state("healthy");
    let before = (site.read("/run/litellm/env"), site.read("/run/litellm/config.yaml"));
    assert!(before.0.is_some() && before.1.is_some());
    site.machine.must(&["mv", "/etc/leasehold/litellm/secrets.yaml", "/etc/leasehold/litellm/away"]);
    let sealed = site.machine.run(&["grep", "-r", "sk-ant-second-0002", "/var/lib/leasehold"]);
    assert_eq!(sealed.stdout, b"", "a key stands in the state in the clear");
    site.machine.reboot();
    site.wait_answer("sk-ant-second-0002", "sk-master-2");
    assert_eq!((site.read("/run/litellm/env"), site.read("/run/litellm/config.yaml")), before);
    site.wait_state("stale");
    let status = site.ask("status").unwrap().to_string();
    assert!(status.contains("/etc/leasehold/litellm/secrets.yaml"), "it does not say what is missing: {status}");
    assert_eq!(site.show(AGENT, "ActiveState"), "active");
    // Nothing was rotated, and the store that is back is.
    site.wait_outcomes(&["committed", "committed"]);
    site.put(FIRST.0, FIRST.1);
    site.wait_answer(FIRST.0, FIRST.1);
    site.wait_outcomes(&["committed"; 3]);
    site.wait_state("healthy");
}

/// Writes down what it and its worker are told, and takes its time to end: longer than the unit's own TimeoutStopSec=.
const SLOW: &str = "#!/bin/bash\n\
    told=/var/log/leasehold/slow/told\n\
    trap 'echo TERM >>$told; stopping=yes' TERM\n\
    (trap 'echo TERM of the worker >>$told' TERM; echo started >>$told; while :; do sleep 0.1; done) &\n\
    worker=$!\n\
    until [ \"$stopping\" ]; do sleep 0.1; done\n\
    for i in {1..80}; do sleep 0.1; done\n\
    kill -KILL $worker\n\
    echo ended >>$told\n";

#[test]
fn what_the_agent_supervises_is_told_once_and_has_the_time_that_the_config_gives_it() {
    let Some(site) = Site::installed() else { return };
    let config = "state_dir: /var/lib/leasehold/slow\n\
        stores:\n  local: {type: file, path: slow.secrets.yaml}\n\
        secrets:\n  app: {store: local}\n\
        targets:\n  slow:\n    files:\n      - {path: /var/log/leasehold/slow/conf, inline: 'v={{ secrets.app.value }}'}\n\
        \x20   reload: {type: exec, command: [/bin/bash, /opt/slow], stop_timeout: 90s}\n";
    site.machine.write("/opt/slow", SLOW);
    site.machine.write("/etc/leasehold/slow.yaml", config);
    site.machine.write("/etc/leasehold/slow.secrets.yaml", "app: {value: one}\n");
    site.machine.must(&["sh", "-ec", "chgrp leasehold /etc/leasehold/slow.*; chmod 0640 /etc/leasehold/slow.*"]);
    let agent = "leasehold@slow.service";
    site.machine.unit(&format!("{agent}.d/short.conf"), "[Service]\nTimeoutStopSec=3s\n");
    site.systemctl(&["start", agent]);
    let told = "/var/log/leasehold/slow/told";
    site.wait("it runs", |s| s.read(told).filter(|text| text == "started\n"));
    site.systemctl(&["stop", agent]);
    let log = site.machine.run(&["journalctl", "--no-pager", "-u", agent]);
    let log = String::from_utf8_lossy(&log.stdout);
    let mut told: Vec<String> = site.read(told).unwrap_or_default().lines().map(str::to_owned).collect();
    told.sort();
    assert_eq!(told, ["TERM", "TERM of the worker", "ended", "started"], "{log}");
    assert_eq!(site.show(agent, "Result"), "success", "{log}");
}
