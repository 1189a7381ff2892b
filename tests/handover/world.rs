//! An agent that hands a server's sockets over, clients that ask it all the time, and somebody who counts processes.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use leasehold::process::procfs;
use serde_json::Value;

use crate::agent::Agent;

const SERVER: &str = include_str!("server.py");

/// What differs between the tests.
pub struct Settings {
    pub on_change: &'static str,
    pub drain: &'static str,
    pub within: &'static str,
    pub health: &'static str,
}

pub const USUAL: Settings =
    Settings { on_change: "handover", drain: "40s", within: "50s", health: "type: http, path: /health" };

pub struct World {
    pub agent: Agent,
    pub address: SocketAddr,
    pub python: String,
}

/// None (said loudly): there is no python3 for the server.
pub fn world(settings: &Settings, key: &str) -> Option<World> {
    // The interpreter itself: what stands in PATH may be a script that starts others.
    let asked = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let Some(python) = asked.ok().filter(|output| output.status.success()) else {
        eprintln!("SKIP: the server of these tests needs python3");
        assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "required, but skipped: python3");
        return None;
    };
    let system = std::path::Path::new("/usr/bin/python3"); // one that every user may run
    let python = String::from_utf8(python.stdout).unwrap().trim().to_owned();
    let python = if system.exists() { system.display().to_string() } else { python };
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let agent = Agent::new(&config(settings, address, &python), &secret(key));
    fs::write(agent.dir.join("server.py"), SERVER).unwrap();
    Some(World { agent, address, python })
}

pub fn config(settings: &Settings, address: SocketAddr, python: &str) -> String {
    let Settings { on_change, drain, within, health } = settings;
    format!(
        "state_dir: state\nstores: {{local: {{type: file, path: secrets.yaml}}}}\nsecrets: {{app: {{store: local}}}}\n\
         targets:\n  app:\n    reload:\n      type: exec\n      command: [{python}, server.py]\n      cwd: .\n\
         \u{20}     env: {{KEY: '{{{{ secrets.app.value }}}}', NOTES: notes}}\n      on_change: {on_change}\n\
         \u{20}     listen: ['tcp://{address}']\n      stop_timeout: 20s\n      drain: {drain}\n\
         \u{20}   health: {{{health}, interval: 100ms, within: {within}}}\n    settle: {{min: 50ms, max: 100ms}}\n"
    )
}

fn secret(key: &str) -> String {
    format!("app: {{value: {key}}}\n")
}

impl World {
    pub fn change(&self, key: &str) {
        self.agent.secrets(&secret(key));
    }

    /// Starts the agent, and waits until it has a healthy process.
    #[track_caller]
    pub fn begin(&mut self) {
        self.agent.start();
        self.agent.wait_state("app", "healthy");
    }

    /// Waits until every one of several new connections is answered with this key, by one process; its pid.
    #[track_caller]
    pub fn wait_key(&mut self, key: &str) -> i64 {
        let address = self.address;
        self.agent.wait(&format!("{key} is what is answered"), |_| {
            let answers: Vec<Value> = (0..6).filter_map(|_| ask(address, "/").ok()).collect();
            let pids: BTreeSet<i64> = answers.iter().filter_map(|answer| answer["pid"].as_i64()).collect();
            let all = answers.len() == 6 && answers.iter().all(|answer| answer["key"] == key);
            pids.first().copied().filter(|_| all && pids.len() == 1)
        })
    }

    /// The same, by another process than this.
    #[track_caller]
    pub fn wait_other(&mut self, key: &str, than: i64) -> i64 {
        let address = self.address;
        let other = |answer: &Value| answer["pid"].as_i64().is_some_and(|pid| pid != than);
        self.agent.wait("another process", |_| ask(address, "/").ok().filter(other));
        self.wait_key(key)
    }

    #[track_caller]
    pub fn wait_said(&mut self, text: &str) {
        self.agent.wait(text, |a| a.log().contains(text).then_some(()));
    }

    /// The server's processes.
    pub fn servers(&self) -> Vec<i32> {
        servers(&self.agent.dir)
    }

    #[track_caller]
    pub fn wait_servers(&mut self, count: usize) {
        let dir = self.agent.dir.clone();
        self.agent.wait(&format!("{count} servers"), |_| (servers(&dir).len() == count).then_some(()));
    }

    pub fn notes(&self) -> String {
        self.agent.read("notes")
    }

    /// Kills a server, and waits until it is gone.
    #[track_caller]
    pub fn kill_server(&mut self, pid: i64) {
        let pid = i32::try_from(pid).unwrap();
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        let dir = self.agent.dir.clone();
        self.agent.wait("it is gone", |_| (!servers(&dir).contains(&pid)).then_some(()));
    }

    /// Kills the agent, and leaves its processes as they are.
    #[track_caller]
    pub fn kill_agent(&mut self) {
        use std::os::unix::process::ExitStatusExt;
        self.agent.signal(nix::sys::signal::Signal::SIGKILL);
        assert_eq!(self.agent.end().signal(), Some(9));
    }

    /// Writes another config, and has a running agent take it up.
    pub fn configure(&self, edit: impl Fn(&str) -> String) {
        fs::write(self.agent.dir.join("agent.yaml"), edit(&self.agent.read("agent.yaml"))).unwrap();
    }

    /// Lets `lingers…` go.
    pub fn finish(&self) {
        fs::write(self.agent.dir.join("finish"), "").unwrap();
    }

    /// How many processes were started with this key.
    pub fn starts(&self, key: &str) -> usize {
        self.notes().lines().filter(|line| line.contains(&format!(" START {key} "))).count()
    }

    #[track_caller]
    pub fn wait_noted(&mut self, pid: i64, what: &str) {
        let line = format!("{pid} {what} ");
        let noted = |notes: &str| notes.lines().any(|noted| noted.starts_with(&line));
        self.agent.wait(&line, |a| noted(&a.read("notes")).then_some(()));
    }

    /// Whether a process has noted this.
    pub fn noted(&self, pid: i64, what: &str) -> bool {
        self.notes().lines().any(|line| line.starts_with(&format!("{pid} {what} ")))
    }
}

fn servers(dir: &std::path::Path) -> Vec<i32> {
    let ours = |pid: i32| {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.ends_with(b"\0server.py\0"))
            && fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == dir)
    };
    let all = procfs::all().unwrap().into_iter().filter(|stat| stat.alive());
    all.map(|stat| stat.pid).filter(|pid| ours(*pid)).collect()
}

/// One request over a connection of its own.
pub fn ask(address: SocketAddr, path: &str) -> Result<Value, String> {
    let text = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).map_err(|e| format!("connect: {e}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(text)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").map_err(text)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| format!("read: {e}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {answer:?}"))?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(head.to_owned());
    }
    serde_json::from_str(body).map_err(|e| e.to_string())
}

/// Clients that ask until they are stopped, and one who counts the server's processes meanwhile.
pub struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    failed: Arc<Mutex<Vec<String>>>,
    pids: Arc<Mutex<BTreeSet<i64>>>,
    most: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

/// What they have seen.
pub struct Seen {
    pub asked: usize,
    pub failed: Vec<String>,
    pub pids: BTreeSet<i64>,
    /// The most processes at once.
    pub most: usize,
}

impl Load {
    pub fn on(world: &World) -> Self {
        let mut load = Self {
            stop: Arc::default(),
            asked: Arc::default(),
            failed: Arc::default(),
            pids: Arc::default(),
            most: Arc::default(),
            threads: Vec::new(),
        };
        let address = world.address;
        for _ in 0..4 {
            let (stop, asked) = (Arc::clone(&load.stop), Arc::clone(&load.asked));
            let (failed, pids) = (Arc::clone(&load.failed), Arc::clone(&load.pids));
            load.threads.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    match ask(address, "/") {
                        Ok(answer) => pids.lock().unwrap().extend(answer["pid"].as_i64()),
                        Err(error) => failed.lock().unwrap().push(error),
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(5)); // a client's pace, not a wait
                }
            }));
        }
        let (stop, most, dir) = (Arc::clone(&load.stop), Arc::clone(&load.most), world.agent.dir.clone());
        load.threads.push(std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                most.fetch_max(servers(&dir).len(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(20));
            }
        }));
        load
    }

    pub fn end(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        let failed = self.failed.lock().unwrap().clone();
        let pids = self.pids.lock().unwrap().clone();
        Seen { asked: self.asked.load(Ordering::Relaxed), failed, pids, most: self.most.load(Ordering::Relaxed) }
    }
}
