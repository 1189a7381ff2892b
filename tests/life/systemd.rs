//! What a service manager is told (sd_notify(3)).

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::agent::{Agent, DEADLINE};
use crate::endpoint::Endpoint;
use crate::kit::{app, key};

struct Manager {
    socket: UnixDatagram,
    told: Vec<String>,
}

impl Manager {
    /// Reads on until a message has this line.
    #[track_caller]
    fn wait_for(&mut self, line: &str) -> String {
        loop {
            let mut bytes = [0; 4096];
            let length =
                self.socket.recv(&mut bytes).unwrap_or_else(|e| panic!("never told {line}: {e}\n{:?}", self.told));
            let message = String::from_utf8(bytes[..length].to_vec()).unwrap();
            self.told.push(message.clone());
            if message.lines().any(|l| l == line) {
                return message;
            }
        }
    }

    fn was_told(&self, line: &str) -> bool {
        self.told.iter().any(|message| message.lines().any(|l| l == line))
    }
}

fn managed(agent: &mut Agent) -> Manager {
    let path = agent.dir.join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    let log = std::fs::File::create(agent.dir.join("log")).unwrap();
    let mut command = agent.command(&["--log-level", "debug", "run"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "400000").stdout(log.try_clone().unwrap()).stderr(log);
    agent.child = Some(command.spawn().unwrap());
    Manager { socket, told: Vec::new() }
}

#[test]
fn ready_reloading_watchdog_and_stopping_are_told_in_their_order() {
    let mut agent = Agent::new(&app(""), &key("key-of-1"));
    let mut manager = managed(&mut agent);
    manager.wait_for("READY=1");
    assert_eq!(agent.read("out/conf"), "key=key-of-1", "ready means that the files are there");
    manager.wait_for("WATCHDOG=1");
    manager.wait_for("WATCHDOG=1");

    let before = monotonic();
    agent.signal(Signal::SIGHUP);
    let message = manager.wait_for("RELOADING=1");
    let at = message.lines().find_map(|l| l.strip_prefix("MONOTONIC_USEC=")).unwrap();
    let at = Duration::from_micros(at.parse().unwrap());
    assert!(before <= at && at <= monotonic(), "{message}");
    manager.wait_for("READY=1");

    assert!(!manager.was_told("STOPPING=1"));
    agent.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    assert_eq!(agent.end().code(), Some(0));
}

#[test]
fn ready_is_told_only_when_the_first_rotation_is_well() {
    let endpoint = Endpoint::accepting(&[]);
    let mut agent = Agent::new(&app(&format!("    health: {}\n", endpoint.health("/h"))), &key("key-of-1"));
    let mut manager = managed(&mut agent);
    agent.wait_state("app", "degraded");
    manager.wait_for("WATCHDOG=1");
    assert!(!manager.was_told("READY=1"));
    endpoint.accept(&["key-of-1"]);
    manager.wait_for("READY=1");
}

#[test]
fn a_target_that_waits_for_its_process_counts_as_ready() {
    let mut agent = Agent::new(&app("    reload: {type: signal, pidfile: pid}\n"), &key("key-of-1"));
    let mut manager = managed(&mut agent);
    manager.wait_for("READY=1");
    agent.wait_state("app", "waiting");
}

/// CLOCK_MONOTONIC, as systemd reads it.
fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.try_into().unwrap(), now.tv_nsec.try_into().unwrap())
}
