//! What `/proc` shows of the agent and of everything that it starts.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Arguments and environment of one program.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Program {
    pub cmdline: Vec<u8>,
    pub environ: Vec<u8>,
}

impl Program {
    /// Values and all, separated by spaces.
    pub fn arguments(&self) -> String {
        String::from_utf8_lossy(&self.cmdline).replace('\0', " ")
    }

    pub fn variables(&self) -> impl Iterator<Item = (String, Vec<u8>)> {
        self.environ.split(|b| *b == 0).filter_map(|variable| {
            let at = variable.iter().position(|b| *b == b'=')?;
            Some((String::from_utf8_lossy(&variable[..at]).into_owned(), variable[at + 1..].to_vec()))
        })
    }

    pub fn variable(&self, name: &str) -> Option<Vec<u8>> {
        self.variables().find(|(own, _)| own == name).map(|(_, value)| value)
    }
}

/// Arguments and environment of a process, if it stayed the same program while both were read.
pub fn program(pid: i32) -> Option<Program> {
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let environ = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let same = fs::read(format!("/proc/{pid}/cmdline")).ok()? == cmdline;
    (same && !cmdline.is_empty() && !environ.is_empty()).then_some(Program { cmdline, environ })
}

/// Looks at the descendants of a process again and again until it is dropped.
pub struct Watcher {
    seen: Arc<Mutex<BTreeSet<Program>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    pub fn start(pid: i32) -> Watcher {
        let seen: Arc<Mutex<BTreeSet<Program>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let (into, until) = (Arc::clone(&seen), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                let own = program(pid).map(|program| program.cmdline);
                for child in descendants(pid) {
                    // Between fork and exec a child shows what its parent is.
                    if let Some(program) = program(child).filter(|p| Some(&p.cmdline) != own.as_ref()) {
                        into.lock().unwrap().insert(program);
                    }
                }
                std::thread::yield_now();
            }
        });
        Watcher { seen, stop, thread: Some(thread) }
    }

    pub fn seen(&self) -> Vec<Program> {
        self.seen.lock().unwrap().iter().cloned().collect()
    }

    /// Whether a program was seen of which the arguments hold this.
    pub fn saw(&self, argument: &str) -> bool {
        self.seen.lock().unwrap().iter().any(|program| program.arguments().contains(argument))
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ended = self.thread.take().unwrap().join();
    }
}

fn descendants(pid: i32) -> Vec<i32> {
    let mut found = children(pid);
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        found.extend(children(*pid));
        next += 1;
    }
    found
}

pub fn children(pid: i32) -> Vec<i32> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let lists = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect()
}
