//! `install.sh`: into a folder, into a machine, and out again.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::site::{AGENT, LITELLM, Site, install_below, install_with};

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
    assert!(install_below(folder.path(), &["--binary", "/dev/null"]).status.code() == Some(66), "no file");
    assert!(install_below(folder.path(), &["--binary", "/bin/sh"]).status.success());
    let found = files(folder.path());
    assert!(!found.contains_key("usr/local/lib/systemd/system/litellm.service"), "it hides theirs");
    assert!(found.contains_key("usr/local/lib/systemd/system/litellm.service.d/leasehold.conf"));
    // In one folder with it, too.
    for arguments in [&["--binary", "/bin/sh"][..], &["--uninstall", "--purge"]] {
        assert!(install_with(folder.path(), arguments, "/usr").status.success());
        assert_eq!(fs::read_to_string(theirs.join("litellm.service")).unwrap(), "theirs");
    }
    assert!(!theirs.join("leasehold@.service").exists() && !theirs.join("litellm.service.d").exists());
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
    let left: Vec<String> = files(folder.path()).into_keys().collect();
    assert_eq!(left, [kept[2], "etc/credstore/other", kept[0], kept[1]]);
    assert!(install_below(folder.path(), &["--uninstall", "--purge"]).status.success());
    assert_eq!(files(folder.path()).into_keys().collect::<Vec<_>>(), ["etc/credstore/other"]);
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

    site.install();
    site.systemctl(&["enable", "--now", AGENT]);
    site.wait_state("healthy");
    site.wait_outcomes(&["committed"]);
    assert_eq!(site.show(LITELLM, "MainPID"), pid, "LiteLLM was restarted for nothing");

    site.systemctl(&["stop", LITELLM]);
    let output = site.script(&["--uninstall", "--purge"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let find = "find / -xdev -path /proc -prune -o -path /opt -prune -o -path /var/log/journal -prune -o -name '*leasehold*' -print";
    let left = site.machine.run(&["sh", "-c", find]);
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "left behind");
    assert!(!site.exists("/run/litellm") && !site.machine.run(&["id", "leasehold"]).status.success());
}
