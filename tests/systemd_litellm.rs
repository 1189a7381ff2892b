//! The real LiteLLM in a real systemd, with the units, the drop-ins and the config that `systemd/install.sh` puts in place; of the
//! template only the provider is another: scripts/upstream.py. Needs root, systemd-nspawn and LEASEHOLD_PYTHON.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]
#![allow(dead_code, reason = "the site serves other tests too")]

#[path = "support/nspawn.rs"]
mod nspawn;
#[path = "systemd_units/site.rs"]
mod site;

use std::path::{Path, PathBuf};
use std::process::Command;

use site::{AGENT, LITELLM, REPOSITORY, Site, repository, skip};

/// The wheel's own script names a Python that is elsewhere inside.
const PROGRAM: &str = "#!/bin/sh\n\
    export LD_LIBRARY_PATH=/opt/python/lib PYTHONHOME=/opt/python PYTHONPATH=/opt/packages PYTHONDONTWRITEBYTECODE=1\n\
    exec /opt/python/bin/python3 -c 'from litellm import run_server; run_server()' \"$@\"\n";
const TEMPLATE: &str = "/etc/leasehold/litellm/config.yaml.tera";
/// One completion; prints its status.
const ASK: &str = r#"
import json, sys, urllib.error, urllib.request
body = json.dumps({"model": "claude", "messages": [{"role": "user", "content": "hello"}]}).encode()
headers = {"Authorization": "Bearer " + sys.argv[1], "Content-Type": "application/json"}
try:
    with urllib.request.urlopen(urllib.request.Request("http://127.0.0.1:4000/v1/chat/completions", body, headers), timeout=60) as answer:
        assert json.load(answer)["choices"][0]["message"]["content"] == "echo: hello"
        print(answer.status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError as error:
    print(error)
"#;

struct Real {
    site: Site,
}

impl Real {
    fn installed() -> Option<Self> {
        let Some(python) = std::env::var_os("LEASEHOLD_PYTHON").map(PathBuf::from) else {
            skip("LiteLLM in a real systemd: LEASEHOLD_PYTHON names no Python (run ./scripts/test)");
            return None;
        };
        let says = "import sys, sysconfig; print(sys.base_prefix); print(sysconfig.get_path('purelib'))";
        let told = Command::new(&python).args(["-c", says]).output().unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        let (base, packages) = told.trim().split_once('\n').unwrap();
        let scripts = format!("{REPOSITORY}/scripts");
        let site = Site::without_litellm(&[
            (Path::new(base), "/opt/python"),
            (Path::new(packages), "/opt/packages"),
            (&repository("scripts"), &scripts),
        ])?;
        site.litellm(PROGRAM);
        site.machine.write("/opt/ask.py", ASK);
        // Every machine has it; the container's root was made without.
        site.machine.write("/etc/hosts", "127.0.0.1 localhost\n");
        let provider = "openai/upstream-model\n      api_base: http://127.0.0.1:8090/v1";
        site.edit(TEMPLATE, "anthropic/claude-sonnet-4-5", provider);
        // Its start takes long enough on a machine that has more to do.
        site.edit_config("within: 90s", "within: 240s");
        site.edit_config("timeout: 120s", "timeout: 240s");
        site.edit_config("timeout: 60s", "timeout: 240s");
        let real = Self { site };
        real.provider();
        Some(real)
    }

    fn python(&self) -> Command {
        let mut command = self.site.machine.command("/opt/python/bin/python3");
        command.env("LD_LIBRARY_PATH", "/opt/python/lib").env("PYTHONHOME", "/opt/python");
        command
    }

    /// The provider, as a unit: it goes down and comes up with the machine.
    fn provider(&self) {
        let keys = r#"{"sk-ant-first-0001": ["chat"], "sk-ant-second-0002": ["chat"], "sk-ant-third-0003": ["chat"]}"#;
        self.site.machine.write("/opt/keys.json", keys);
        let script = format!("{REPOSITORY}/scripts/upstream.py");
        let unit = format!(
            "[Service]\nEnvironment=LD_LIBRARY_PATH=/opt/python/lib PYTHONHOME=/opt/python\n\
             ExecStart=/opt/python/bin/python3 -B {script} --listen 127.0.0.1:8090 --keys /opt/keys.json --log /opt/log\n\
             [Install]\nWantedBy=multi-user.target\n"
        );
        self.site.machine.unit("provider.service", &unit);
        self.site.systemctl(&["enable", "--now", "provider.service"]);
    }

    /// Waits until a completion succeeds for this master key, by this key of the provider's.
    #[track_caller]
    fn completes(&self, provider: &str, master: &str) {
        let digest = ring::digest::digest(&ring::digest::SHA256, provider.as_bytes());
        let name: String = digest.as_ref().iter().take(6).map(|byte| format!("{byte:02x}")).collect();
        self.site.wait(&format!("a completion by {provider}"), |site| {
            site.machine.run(&["sh", "-c", ": > /opt/log"]);
            let answer = self.python().args(["-B", "/opt/ask.py", master]).output().unwrap();
            let seen = site.read("/opt/log").is_some_and(|log| log.contains(&name) && log.contains("200"));
            (seen && String::from_utf8_lossy(&answer.stdout).trim() == "200").then_some(())
        });
    }

    /// Its files and its history.
    fn stands_on(&self) -> (Option<String>, Option<String>, Vec<String>) {
        let read = |path| self.site.read(path);
        (read("/run/litellm/config.yaml"), read("/run/litellm/env"), self.site.outcomes())
    }

    fn processes(&self) -> (String, String) {
        (self.site.show(AGENT, "MainPID"), self.site.show(LITELLM, "MainPID"))
    }
}

#[test]
fn it_starts_after_the_agent_is_rotated_by_restart_and_reload_and_outlives_all_that_happens_to_the_agent() {
    let Some(mut real) = Real::installed() else { return };
    // Nothing can be read: the agent is not ready, and LiteLLM waits for it.
    real.site.machine.must(&["mv", "/etc/leasehold/litellm/secrets.yaml", "/etc/leasehold/litellm/away"]);
    real.site.machine.unit("leasehold@litellm.service.d/dog.conf", "[Service]\nWatchdogSec=10s\n");
    real.site.systemctl(&["enable", AGENT, LITELLM]);
    real.site.systemctl(&["start", "--no-block", LITELLM]);
    real.site
        .wait("the agent says what it waits for", |s| s.show(AGENT, "StatusText").contains("litellm: ").then_some(()));
    assert_eq!(real.site.show(LITELLM, "ActiveState"), "inactive");
    real.site.put("sk-ant-first-0001", "sk-master-1");
    real.completes("sk-ant-first-0001", "sk-master-1");
    real.site.wait_state("healthy");

    // By restart: the master key, which is in the environment, is new too.
    let before = real.processes();
    real.site.put("sk-ant-second-0002", "sk-master-2");
    real.site.wait_outcomes(&["committed", "committed"]);
    real.completes("sk-ant-second-0002", "sk-master-2");
    assert!(real.processes().0 == before.0 && real.processes().1 != before.1);

    // By reload: the workers are new, the process and its environment are not, so the master key stays.
    real.site.edit_config("verb: restart", "verb: reload");
    real.site.systemctl(&["reload", AGENT]);
    let before = real.processes();
    real.site.put("sk-ant-third-0003", "sk-master-2");
    real.site.wait_outcomes(&["committed"; 3]);
    real.completes("sk-ant-third-0003", "sk-master-2");
    assert_eq!(real.processes(), before);

    // What LiteLLM itself would not take never reaches it.
    let bytes = real.site.read("/run/litellm/config.yaml");
    real.site.edit(TEMPLATE, "general_settings:", "general_settings: [");
    real.site.wait("the config that is none is refused", |s| {
        s.outcomes().iter().any(|outcome| outcome != "committed").then_some(())
    });
    real.site.edit(TEMPLATE, "general_settings: [", "general_settings:");
    assert_eq!((real.site.read("/run/litellm/config.yaml"), real.processes()), (bytes, before.clone()));
    real.completes("sk-ant-third-0003", "sk-master-2");

    // systemd is executed anew; the agent is reloaded, hangs until the watchdog ends it, and is restarted.
    real.site.wait_state("healthy");
    real.site.systemctl(&["daemon-reexec"]);
    real.site.systemctl(&["reload", AGENT]);
    assert_eq!(real.processes(), before);
    real.site.machine.must(&["kill", "-STOP", &before.0]);
    real.site.wait("systemd starts it anew", |s| (s.show(AGENT, "NRestarts") == "1").then_some(()));
    real.site.wait("it is ready", |s| (s.show(AGENT, "ActiveState") == "active").then_some(()));
    real.site.wait_state("healthy");
    real.site.systemctl(&["restart", AGENT]);
    real.site.wait_state("healthy");
    assert_eq!(real.processes().1, before.1, "LiteLLM was restarted for nothing");
    real.completes("sk-ant-third-0003", "sk-master-2");

    // An orderly reboot, and a boot without the store: the last good files.
    let before = real.stands_on();
    real.site.machine.must(&["mv", "/etc/leasehold/litellm/secrets.yaml", "/etc/leasehold/litellm/away"]);
    real.site.machine.reboot();
    real.completes("sk-ant-third-0003", "sk-master-2");
    real.site.wait_state("stale");
    assert_eq!(real.stands_on(), before);
    // A power cut: the same.
    real.site.machine.reset();
    real.completes("sk-ant-third-0003", "sk-master-2");
    real.site.wait_state("stale");
    assert_eq!(real.stands_on(), before);
}
