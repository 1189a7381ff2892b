//! Disks that are full, read-only or forbidden.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::agent::Agent;
use crate::kit::{app, key, mark, skip};

/// A small filesystem of its own, gone with the test.
struct Tmpfs(PathBuf);

impl Tmpfs {
    /// None where mounting is not allowed.
    fn mount(at: &Path) -> Option<Tmpfs> {
        fs::create_dir_all(at).unwrap();
        if mount(&["-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs"], at) {
            return Some(Tmpfs(at.to_owned()));
        }
        skip("a small tmpfs: mounting is not allowed here");
        None
    }

    fn fill(&self) {
        let mut file = fs::File::create(self.0.join("filler")).unwrap();
        let full = (0..1_000).find_map(|_| file.write_all(&[0; 1024]).err()).unwrap();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    }

    fn free(&self) {
        fs::remove_file(self.0.join("filler")).unwrap();
    }

    fn remount(&self, how: &str) {
        assert!(mount(&["-o", &format!("remount,{how}")], &self.0));
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _gone = Command::new("umount").arg("-l").arg(&self.0).stderr(Stdio::null()).status();
    }
}

fn mount(arguments: &[&str], at: &Path) -> bool {
    let mut command = Command::new("mount");
    command.args(arguments).arg(at).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Changes the secret in the fault, waits for its telling, takes the fault away, and waits for the new bytes.
fn passes(agent: &mut Agent, text: &str, heal: impl FnOnce()) {
    let path = agent.dir.join("out/conf");
    let before = mark(&path);
    agent.secrets(&key("key-of-2"));
    agent.wait(&format!("`{text}` is told"), |a| {
        let state = a.target("app")?;
        state["reason"].as_str().filter(|r| r.contains(text)).map(drop)
    });
    assert!(agent.log().contains(text), "{}", agent.log());
    assert_eq!((mark(&path), agent.read("out/conf")), (before, "key=key-of-1".to_owned()), "the old file is intact");
    heal();
    agent.wait_file("out/conf", "key=key-of-2");
    let state = agent.wait_state("app", "healthy");
    assert_eq!(state["reason"], serde_json::Value::Null, "{state}");
    assert_eq!(agent.outcomes().last().unwrap(), "committed");
    let leftovers: Vec<_> = fs::read_dir(agent.dir.join("out")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(leftovers, ["conf"]);
}

#[test]
fn a_full_disk_under_the_files_is_waited_for() {
    let mut agent = Agent::new(&app(""), &key("key-of-1"));
    let Some(disk) = Tmpfs::mount(&agent.dir.join("out")) else { return };
    agent.start();
    agent.wait_outcomes(&["committed"]);
    disk.fill();
    let filler = disk.0.join("filler");
    passes(&mut agent, "No space left on device", || fs::remove_file(filler).unwrap());
}

#[test]
fn a_full_disk_under_the_state_is_waited_for() {
    let mut agent = Agent::new(&app(""), &key("key-of-1"));
    let state = agent.dir.join("state");
    let Some(disk) = Tmpfs::mount(&state) else { return };
    agent.start();
    agent.wait_outcomes(&["committed"]);
    disk.fill();
    passes(&mut agent, "No space left on device", || disk.free());
    assert_eq!(agent.stop().code(), Some(0));
}

#[test]
fn a_read_only_directory_is_waited_for() {
    let mut agent = Agent::new(&app(""), &key("key-of-1"));
    let Some(disk) = Tmpfs::mount(&agent.dir.join("out")) else { return };
    agent.start();
    agent.wait_outcomes(&["committed"]);
    disk.remount("ro");
    passes(&mut agent, "Read-only file system", || disk.remount("rw"));
}

/// Everything in the folder to a user that is not root; the agent then runs as that user.
fn give_away(agent: &mut Agent, config: &str) {
    const NOBODY: u32 = 65534;
    fs::write(agent.dir.join("agent.yaml"), config).unwrap();
    if nix::unistd::geteuid().is_root() {
        let dir = agent.dir.clone();
        for path in ["", "out", "agent.yaml", "secrets.yaml"] {
            chown(dir.join(path), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        agent.user = Some(NOBODY);
    }
}

#[test]
fn a_lost_permission_is_waited_for() {
    let text = app("");
    let mut agent = Agent::new(&text, &key("key-of-1"));
    give_away(&mut agent, &text);
    agent.start();
    agent.wait_outcomes(&["committed"]);
    let out = agent.dir.join("out");
    fs::set_permissions(&out, fs::Permissions::from_mode(0o500)).unwrap();
    passes(&mut agent, "Permission denied", || fs::set_permissions(&out, fs::Permissions::from_mode(0o700)).unwrap());
}

#[test]
fn a_lost_permission_on_the_state_is_waited_for() {
    let text = app("");
    let mut agent = Agent::new(&text, &key("key-of-1"));
    give_away(&mut agent, &text);
    agent.start();
    agent.wait_outcomes(&["committed"]);
    let generations = agent.dir.join("state/targets/app/generations");
    fs::set_permissions(&generations, fs::Permissions::from_mode(0o500)).unwrap();
    passes(&mut agent, "Permission denied", || {
        fs::set_permissions(&generations, fs::Permissions::from_mode(0o700)).unwrap();
    });
}

#[test]
fn a_destination_that_is_a_directory_is_told_and_waited_for() {
    let mut agent = Agent::new(&app(""), &key("key-of-1"));
    fs::create_dir(agent.dir.join("out/conf")).unwrap();
    agent.start();
    let state = agent.wait_state("app", "degraded");
    assert!(state["reason"].as_str().unwrap().contains("out/conf"), "{state}");
    fs::remove_dir(agent.dir.join("out/conf")).unwrap();
    agent.wait_file("out/conf", "key=key-of-1");
    agent.wait_state("app", "healthy");
}
