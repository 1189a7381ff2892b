//! `install.sh`: into a folder, into a machine, and out again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::site::{AGENT, LITELLM, Site, install_below, install_with, repository};

const DROP_IN: &str = "/usr/local/lib/systemd/system/litellm.service.d/leasehold.conf";

/// Every file below a folder, and what is in it.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(at) = folders.pop() {
        for entry in fs::read_dir(&at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.insert(path.strip_prefix(folder).unwrap().display().to_string(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

#[test]
fn installing_again_changes_nothing_and_no_config_is_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let binary = folder.path().join("binary");
    fs::write(&binary, "the agent").unwrap();
    let root = folder.path().join("root");
    let install = || {
        let output = install_below(&root, &["--binary", binary.to_str().unwrap()]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    install();
    let first = files(&root);
    assert_eq!(first["usr/local/bin/agent"], b"the agent");
    assert!(first.contains_key("usr/local/lib/systemd/system/leasehold@.service"), "{:?}", first.keys());
    install();
    assert_eq!(files(&root), first);

    let config = root.join("etc/leasehold/litellm.yaml");
    fs::write(&config, "mine").unwrap();
    let rules = root.join("etc/polkit-1/rules.d/50-leasehold.rules");
    fs::write(&rules, "mine, too").unwrap();
    install();
    assert_eq!(fs::read_to_string(&config).unwrap(), "mine");
    assert_eq!(fs::read_to_string(&rules).unwrap(), "mine, too");
}

#[test]
fn a_litellm_unit_that_is_there_is_kept_and_gets_the_drop_in_only() {
    let folder = tempfile::tempdir().unwrap();
    let theirs = folder.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&theirs).unwrap();
    fs::write(theirs.join("litellm.service"), "theirs").unwrap();
    fs::write(theirs.join("litellm.socket"), "theirs").unwrap();
    assert!(install_below(folder.path(), &["--binary", "/dev/null"]).status.code() == Some(66), "no file");
    let output = install_below(folder.path(), &["--binary", "/bin/sh"]);
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    for said in [
        "kept /usr/lib/systemd/system/litellm.service, which is not from here",
        "kept /usr/lib/systemd/system/litellm.socket, which is not from here",
        "got one drop-in, /usr/local/lib/systemd/system/litellm.service.d/leasehold.conf",
    ] {
        assert!(told.contains(said), "{said:?} is not in {told}");
    }
    let found = files(folder.path());
    for unit in ["litellm.service", "litellm.socket"] {
        assert!(!found.contains_key(&format!("usr/local/lib/systemd/system/{unit}")), "it hides their {unit}");
    }
    assert!(found.contains_key("usr/local/lib/systemd/system/litellm.service.d/leasehold.conf"));
    // In one folder with it, too.
    for arguments in [&["--binary", "/bin/sh"][..], &["--uninstall", "--purge"]] {
        assert!(install_with(folder.path(), arguments, "/usr").status.success());
        for unit in ["litellm.service", "litellm.socket"] {
            assert_eq!(fs::read_to_string(theirs.join(unit)).unwrap(), "theirs");
        }
    }
    assert!(!theirs.join("leasehold@.service").exists() && !theirs.join("litellm.service.d").exists());
}

#[test]
fn a_litellm_unit_from_here_is_renewed_until_somebody_changes_it() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("usr/local/lib/systemd/system/litellm.service");
    let copy = folder.path().join("usr/local/share/leasehold/units/litellm.service");
    let install = || {
        let output = install_below(folder.path(), &["--binary", "/bin/sh"]);
        assert!(output.status.success());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(!install().contains("litellm.service"), "it is its own");
    let ours = fs::read_to_string(&unit).unwrap();
    // As a release before has it.
    for path in [&unit, &copy] {
        fs::write(path, ours.replace("RestartSec=2s", "RestartSec=3s")).unwrap();
    }
    install();
    assert_eq!(fs::read_to_string(&unit).unwrap(), ours);
    // Edited in place: the first line alone does not make it ours.
    let edited = ours.replace("RestartSec=2s", "RestartSec=9s");
    fs::write(&unit, &edited).unwrap();
    assert!(install().contains("kept /usr/local/lib/systemd/system/litellm.service"));
    assert!(install_below(folder.path(), &["--uninstall", "--purge"]).status.success());
    assert_eq!(fs::read_to_string(&unit).unwrap(), edited);
    // Masked: as little.
    fs::remove_file(&unit).unwrap();
    let mask = folder.path().join("etc/systemd/system/litellm.service");
    fs::create_dir_all(mask.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/null", &mask).unwrap();
    assert!(install().contains("kept /etc/systemd/system/litellm.service"));
    assert!(!unit.exists());
}

#[test]
fn the_modes_of_what_is_installed_do_not_follow_the_callers_umask() {
    let folder = tempfile::tempdir().unwrap();
    let modes = |umask: &str| {
        let root = folder.path().join(umask);
        let script = "umask \"$1\"; exec sh \"$2\" --binary \"$3\"";
        let mut command = std::process::Command::new("sh");
        command.args(["-c", script, "sh", umask]).arg(repository("systemd/install.sh"));
        let output = command.arg(env!("CARGO_BIN_EXE_agent")).env("DESTDIR", &root).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let listed = std::process::Command::new("find")
            .args([".", "-mindepth", "1", "-printf", "%m %P\n"])
            .current_dir(&root)
            .output()
            .unwrap();
        let mut lines: Vec<String> = String::from_utf8(listed.stdout).unwrap().lines().map(str::to_owned).collect();
        lines.sort();
        lines
    };
    let usual = modes("022");
    assert_eq!(modes("077"), usual);
    assert_eq!(modes("000"), usual);
    for line in &usual {
        let folder_or_program = line.starts_with("755 ") && (line.ends_with("/agent") || !line.contains('.'));
        let drop_in_folder = line.starts_with("755 ") && line.ends_with(".d");
        assert!(line.starts_with("644 ") || folder_or_program || drop_in_folder, "{line}");
    }
}

#[test]
fn man_pages_and_completions_come_with_it_and_go_with_it_and_those_of_others_stay() {
    let folder = tempfile::tempdir().unwrap();
    let share = folder.path().join("usr/local/share");
    let others = share.join("man/man1/agent-smith.1");
    fs::create_dir_all(others.parent().unwrap()).unwrap();
    fs::write(&others, ".TH agent-smith 1 \"smith 1.0\"\n").unwrap();
    let output = install_below(folder.path(), &["--binary", env!("CARGO_BIN_EXE_agent")]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let completions = [
        "bash-completion/completions/agent",
        "zsh/site-functions/_agent",
        "fish/vendor_completions.d/agent.fish",
        "man/man1/agent.1",
        "man/man1/agent-run.1",
    ];
    for path in completions {
        assert!(fs::read_to_string(share.join(path)).unwrap().contains("agent"), "{path}");
    }
    assert!(install_below(folder.path(), &["--uninstall"]).status.success());
    assert_eq!(files(folder.path()).into_keys().collect::<Vec<_>>(), ["usr/local/share/man/man1/agent-smith.1"]);
}

#[test]
fn without_root_and_destdir_it_says_what_is_missing_and_touches_nothing() {
    let script = repository("systemd/install.sh");
    let mut command = std::process::Command::new("sh");
    if nix::unistd::geteuid().is_root() {
        command = std::process::Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh"]);
    }
    // On standard input: that user need not be able to read the repository.
    let output =
        command.arg("-s").stdin(fs::File::open(script).unwrap()).env("PREFIX", "/nonexistent").output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(77), "{told}");
    assert!(told.contains("run it as root") && told.contains("DESTDIR"), "{told}");
}

#[test]
fn under_another_prefix_the_unit_runs_the_binary_that_is_there() {
    let folder = tempfile::tempdir().unwrap();
    assert!(install_with(folder.path(), &["--binary", "/bin/sh"], "/usr").status.success());
    let unit = fs::read_to_string(folder.path().join("usr/lib/systemd/system/leasehold@.service")).unwrap();
    assert!(unit.contains("\nExecStart=/usr/bin/agent run"), "{unit}");
    assert!(folder.path().join("usr/bin/agent").exists());
    assert_eq!(install_with(folder.path(), &["--binary", "/bin/sh"], "opt").status.code(), Some(64), "not absolute");
}

#[test]
fn uninstalling_leaves_nothing_of_its_own_and_purging_nothing_at_all() {
    let folder = tempfile::tempdir().unwrap();
    assert!(install_below(folder.path(), &["--binary", "/bin/sh"]).status.success());
    let kept =
        ["etc/leasehold/litellm.yaml", "var/lib/leasehold/litellm/key", "etc/credstore/leasehold.litellm.state_key"];
    for path in kept.iter().chain(&["etc/credstore/other"]) {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "kept").unwrap();
    }
    assert!(install_below(folder.path(), &["--uninstall"]).status.success());
    let left = || files(folder.path()).into_keys().collect::<Vec<_>>();
    assert_eq!(left(), [kept[2], "etc/credstore/other", kept[0], kept[1]]);
    // Again, and both once more: nothing is left to do, and that is no failure.
    assert!(install_below(folder.path(), &["--uninstall"]).status.success());
    assert_eq!(left(), [kept[2], "etc/credstore/other", kept[0], kept[1]]);
    for _ in 0..2 {
        assert!(install_below(folder.path(), &["--uninstall", "--purge"]).status.success());
        assert_eq!(left(), ["etc/credstore/other"]);
    }
}

#[test]
fn there_is_no_purge_without_an_uninstall() {
    assert_eq!(install_below(Path::new("/nonexistent"), &["--purge"]).status.code(), Some(64));
}

#[test]
fn uninstalling_stops_the_agent_leaves_its_state_and_the_next_install_goes_on_with_it() {
    let Some(site) = Site::running() else { return };
    let pid = site.show(LITELLM, "MainPID");
    let output = site.script(&["--uninstall"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!site.exists("/usr/local/bin/agent") && !site.exists("/usr/local/lib/systemd/system/leasehold@.service"));
    assert!(!site.machine.run(&["systemctl", "is-active", AGENT]).status.success());
    for left in
        ["/etc/leasehold/litellm.yaml", "/var/lib/leasehold/litellm/key", "/run/litellm/env", "/var/log/leasehold"]
    {
        assert!(site.exists(left), "{left} is gone");
    }
    site.wait_answer("sk-ant-example-0001", "sk-example-master-0001");
    // What LiteLLM needs for its next start is there still, and it is told.
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("LiteLLM runs, and goes on") && told.contains("A reboot empties /run"), "{told}");
    assert!(site.exists(DROP_IN));
    site.systemctl(&["restart", LITELLM]);
    site.wait_answer("sk-ant-example-0001", "sk-example-master-0001");
    assert_ne!(site.show(LITELLM, "MainPID"), pid);
    let pid = site.show(LITELLM, "MainPID");
    let again = site.script(&["--uninstall"]);
    assert!(again.status.success(), "{}", String::from_utf8_lossy(&again.stderr));

    site.install();
    site.systemctl(&["enable", "--now", AGENT]);
    site.wait_state("healthy");
    site.wait_outcomes(&["committed"]);
    assert_eq!(site.show(LITELLM, "MainPID"), pid, "LiteLLM was restarted for nothing");

    // Purged beside a LiteLLM that runs: it can be restarted still.
    let purge = || {
        let output = site.script(&["--uninstall", "--purge"]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    purge();
    assert!(site.exists(DROP_IN) && !site.exists("/var/lib/leasehold") && !site.exists("/etc/leasehold"));
    site.systemctl(&["restart", LITELLM]);
    site.wait_answer("sk-ant-example-0001", "sk-example-master-0001");
    site.systemctl(&["stop", LITELLM]);
    purge();
    purge();
    let find = "find / -xdev -path /proc -prune -o -path /opt -prune -o -path /var/log/journal -prune -o -name '*leasehold*' -print";
    let left = site.machine.run(&["sh", "-c", find]);
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "left behind");
    assert!(!site.exists("/run/litellm") && !site.machine.run(&["id", "leasehold"]).status.success());
}
