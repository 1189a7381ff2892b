//! A rotation through the units as they are installed.

use std::process::Stdio;

use crate::site::{AGENT, LITELLM, Site};

#[test]
fn litellm_starts_after_the_first_files_and_is_rotated_by_restart_and_by_reload() {
    let Some(site) = Site::installed() else { return };
    // Nothing can be read: the agent is not ready, and LiteLLM waits for it.
    site.machine.must(&["mv", "/etc/leasehold/litellm/secrets.yaml", "/etc/leasehold/litellm/away"]);
    site.systemctl(&["start", "--no-block", LITELLM]);
    site.wait("the agent says what it waits for", |s| s.show(AGENT, "StatusText").contains("litellm: ").then_some(()));
    assert_eq!(
        (site.show(AGENT, "ActiveState"), site.show(LITELLM, "ActiveState")),
        ("activating".into(), "inactive".into())
    );
    site.put("sk-ant-first-0001", "sk-master-1");
    site.wait_answer("sk-ant-first-0001", "sk-master-1");
    site.wait_state("healthy");
    let modes = site.machine.must(&[
        "stat",
        "-c",
        "%U:%G %a",
        "/run/litellm/config.yaml",
        "/run/litellm/env",
        "/var/lib/leasehold/litellm",
    ]);
    assert_eq!(modes, "leasehold:litellm 640\nleasehold:litellm 600\nleasehold:litellm 700\n");
    assert_eq!(site.show(AGENT, "User"), "leasehold");

    // By restart: the environment is new, too.
    let pid = site.show(LITELLM, "MainPID");
    site.put("sk-ant-second-0002", "sk-master-2");
    site.wait_answer("sk-ant-second-0002", "sk-master-2");
    site.wait_outcomes(&["committed", "committed"]);
    assert_ne!(site.show(LITELLM, "MainPID"), pid);

    // By reload: config.yaml is new, the environment is the one of before, the process the same.
    site.edit_config("verb: restart", "verb: reload");
    site.systemctl(&["reload", AGENT]);
    let (pid, agent) = (site.show(LITELLM, "MainPID"), site.show(AGENT, "MainPID"));
    site.put("sk-ant-third-0003", "sk-master-2");
    site.wait_answer("sk-ant-third-0003", "sk-master-2");
    site.wait_outcomes(&["committed"; 3]);
    assert_eq!((site.show(LITELLM, "MainPID"), site.show(AGENT, "MainPID")), (pid, agent));

    // A config that LiteLLM would not take never reaches it.
    site.put("sk-ant-refused-0004", "sk-master-2");
    site.wait_outcomes(&["committed", "committed", "committed", "quarantined"]);
    site.wait_answer("sk-ant-third-0003", "sk-master-2");
    let audit = site.read("/var/log/leasehold/litellm/audit.jsonl").unwrap_or_default();
    assert!(audit.contains("check `/opt/litellm/bin/litellm` refused"), "it was not LiteLLM that refused it: {audit}");
    assert!(audit.contains("committed") && !audit.contains("-000") && !audit.contains("sk-master"), "{audit}");
}

#[test]
fn what_a_reload_does_not_take_up_is_noticed_and_taken_back() {
    let Some(site) = Site::installed() else { return };
    site.edit_config("verb: restart", "verb: reload");
    site.edit_config("within: 90s", "within: 20s");
    site.systemctl(&["enable", "--now", AGENT, LITELLM]);
    site.wait_state("healthy");
    let before = site.read("/run/litellm/env");
    // LiteLLM is ready, and shows the new snapshot to nobody who comes with the new master key.
    site.put("sk-ant-second-0002", "sk-master-2");
    site.wait_outcomes(&["committed", "rolled_back"]);
    assert_eq!(site.read("/run/litellm/env"), before);
    site.wait_answer("sk-ant-example-0001", "sk-example-master-0001");
    let history = site.ask("history").unwrap().to_string();
    assert!(history.contains("/model/info") && history.contains("401"), "it does not say what was wrong: {history}");
}

#[test]
fn a_unit_that_died_too_often_of_a_bad_key_is_started_again_on_the_one_before() {
    let Some(site) = Site::installed() else { return };
    // systemd gives it up after two starts.
    let often = "[Unit]\nStartLimitIntervalSec=300\nStartLimitBurst=2\n[Service]\nRestartSec=100ms\n";
    site.machine.unit("litellm.service.d/often.conf", often);
    site.edit_config("within: 90s", "within: 20s");
    site.systemctl(&["enable", "--now", AGENT, LITELLM]);
    site.wait_state("healthy");
    site.put("sk-ant-dies-0002", "sk-master-2");
    site.wait_outcomes(&["committed", "rolled_back"]);
    site.wait_answer("sk-ant-example-0001", "sk-example-master-0001");
    assert_eq!(site.show(LITELLM, "ActiveState"), "active");
}

/// Every request, one after the other, each on a connection of its own, until `/tmp/stop` is there.
const CLIENT: &str = "until test -e /tmp/stop; do \
    if ( exec 3<>/dev/tcp/127.0.0.1/4000 && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && timeout 60 grep -q key= <&3 ) 2>/dev/null; \
    then echo ok; else echo failed; fi; done";

#[test]
fn with_the_kept_socket_a_restart_costs_no_request() {
    let Some(site) = Site::installed() else { return };
    // As slow to start as the real one is, in small.
    site.machine.unit("litellm.service.d/slow.conf", "[Service]\nExecStartPre=/bin/sleep 1\n");
    site.systemctl(&["enable", "--now", "litellm.socket", AGENT]);
    // The first request starts it.
    site.wait_answer("sk-ant-example-0001", "sk-example-master-0001");
    site.wait_state("healthy");
    let mut client = site.machine.command("bash");
    let client = client.args(["-c", CLIENT]).stdout(Stdio::piped()).spawn().unwrap();
    for round in ["2", "3", "4"] {
        let pid = site.show(LITELLM, "MainPID");
        site.put(&format!("sk-ant-rotated-{round}"), "sk-master");
        site.wait_answer(&format!("sk-ant-rotated-{round}"), "sk-master");
        assert_ne!(site.show(LITELLM, "MainPID"), pid);
        site.wait_state("healthy");
    }
    site.machine.must(&["touch", "/tmp/stop"]);
    let told = String::from_utf8(client.wait_with_output().unwrap().stdout).unwrap();
    let (all, failed) = (told.lines().count(), told.matches("failed").count());
    println!("{all} requests across three restarts, {failed} failed");
    assert!(all >= 50 && failed == 0, "{failed} of {all} failed\n{}", site.logs());
}
