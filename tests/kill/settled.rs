//! What must hold at rest, and what must hold even in the wreck of a killed agent.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use leasehold::generation::{GenerationId, Generations};
use leasehold::rotation::Digest;
use leasehold::state_dir::StateDir;
use leasehold::telemetry::view::HistoryEntry;

use crate::agent::DEADLINE;
use crate::proc;
use crate::world::{Kind, OWNER, PADDING, World};

/// What the targets are waited for to rest on.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The newest value.
    pub value: String,
    /// Whether it is refused.
    pub refused: Refused,
    /// What was refused before it.
    pub before: BTreeMap<Kind, Option<Digest>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Never,
    Always,
    /// Killed twice on its way, a good value may be refused, too.
    Perhaps,
}

/// What a file says: the value and the snapshot it was made from.
type Said = (String, String);

impl World {
    /// Waits until every target rests as expected, with nothing half-done about.
    #[track_caller]
    pub fn rest(&mut self, expected: &Expected) {
        let until = Instant::now() + DEADLINE;
        loop {
            let how = self.agent.child.as_mut().map(|child| child.try_wait().unwrap());
            assert!(how == Some(None), "the agent ended: {how:?}\nlog:\n{}", self.log());
            match self.at_rest(expected) {
                Ok(()) => break,
                Err(why) => assert!(
                    Instant::now() < until,
                    "never: {why}\nexpected: {expected:?}\nstatus: {:?}\nlog:\n{}",
                    self.agent.status(),
                    self.log()
                ),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for kind in self.kinds.clone() {
            let number = number(&self.said(kind).unwrap()[0].0);
            let before = self.rested.insert(kind, number).unwrap_or_default();
            assert!(before <= number, "{kind:?} went from value {before} back to {number}");
        }
        let faults = self.agent.read("faults");
        assert!(faults.is_empty(), "{faults}\nlog:\n{}", self.log());
    }

    /// Asks the agent itself whether all is well.
    #[track_caller]
    pub fn assert_healthy(&mut self) {
        let kinds = self.kinds.clone();
        self.agent.wait("every target is healthy", |agent| {
            let status = agent.status()?;
            let targets = status["targets"].as_array()?;
            (targets.len() == kinds.len() && targets.iter().all(|target| target["state"] == "healthy")).then_some(())
        });
    }

    fn at_rest(&self, expected: &Expected) -> Result<(), String> {
        for kind in &self.kinds {
            self.target_rests(*kind, expected).map_err(|why| format!("{kind:?}: {why}"))?;
        }
        self.no_litter()?;
        self.no_process_too_many()
    }

    fn target_rests(&self, kind: Kind, expected: &Expected) -> Result<(), String> {
        let journal = self.journal(kind)?;
        let committed = journal.committed.ok_or("nothing is committed")?;
        if journal.intent.is_some() || journal.held || !committed.proven {
            return Err(format!("the journal has not come to rest: {journal:?}"));
        }
        let said = self.said(kind)?;
        let (value, snapshot) = &said[0];
        if said.iter().any(|other| other != &said[0]) {
            return Err(format!("the files are of several generations: {said:?}"));
        }
        let refused = journal.quarantined.last().copied() != expected.before.get(&kind).copied().flatten();
        let as_expected = match expected.refused {
            Refused::Never => *value == expected.value,
            Refused::Always => refused && value.starts_with("good"),
            Refused::Perhaps => *value == expected.value || (refused && value.starts_with("good")),
        };
        if !as_expected {
            return Err(format!("it is on {value} (refused anything: {refused})"));
        }
        let serving = self.agent.read(format!("{}.serving", kind.name()));
        if serving.split(' ').next() != Some(value) {
            return Err(format!("published is {value}, but served {serving:?}"));
        }
        self.attributes(kind)?;
        self.generations(kind, committed.generation, snapshot)?;
        self.history(kind)
    }

    /// What the files say; each must be whole.
    fn said(&self, kind: Kind) -> Result<Vec<Said>, String> {
        let dir = self.agent.dir.join("out").join(kind.name());
        let read = |name: &str| {
            fs::read_to_string(dir.join(name)).map_err(|error| format!("{}: {error}", dir.join(name).display()))
        };
        let torn = |name: &str, text: &str| format!("{name} is not whole: {} bytes: {text}", text.len());
        let (env, json, conf) = (read("app.env")?, read("app.json")?, read("app.conf")?);
        let said = [("app.env", said_by_env(&env), &env), ("app.json", said_by_json(&json), &json)];
        let said = said.into_iter().chain([("app.conf", said_by_conf(&conf), &conf)]);
        said.map(|(name, said, text)| said.ok_or_else(|| torn(name, text))).collect()
    }

    fn attributes(&self, kind: Kind) -> Result<(), String> {
        let own = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let owner = if self.root { (OWNER, OWNER) } else { own };
        for (name, mode, owner) in [("app.env", 0o600, own), ("app.json", 0o644, own), ("app.conf", 0o640, owner)] {
            let about =
                fs::metadata(self.agent.dir.join("out").join(kind.name()).join(name)).map_err(|e| e.to_string())?;
            let found = (about.mode() & 0o7777, (about.uid(), about.gid()));
            if found != (mode, owner) {
                return Err(format!("{name}: mode and owner are {found:?}, not {:?}", (mode, owner)));
            }
        }
        Ok(())
    }

    /// Retained is what the journal says, all of it whole; and what is live is of the committed one.
    fn generations(&self, kind: Kind, committed: u64, snapshot: &str) -> Result<(), String> {
        let state = StateDir::open_read_only(&self.agent.dir.join("state")).map_err(|e| e.to_string())?;
        let state = state.ok_or("there is no state")?;
        let view = Generations::view(&state.generations(kind.name()), state.key(), self.seal(kind).as_ref());
        let ids: Vec<u64> = view.ids().map_err(|e| e.to_string())?.iter().map(|id| id.0).collect();
        let mut retained = self.journal(kind)?.retained;
        retained.sort_unstable();
        if ids != retained {
            return Err(format!("generations {ids:?} are there, {retained:?} are to be retained"));
        }
        for id in ids {
            let (manifest, _) = view.load(GenerationId(id)).map_err(|e| e.to_string())?;
            if id == committed && manifest.origin.snapshot != snapshot {
                return Err(format!("live is snapshot {snapshot}, committed {}", manifest.origin.snapshot));
            }
        }
        Ok(())
    }

    fn history(&self, kind: Kind) -> Result<(), String> {
        let text = self.agent.read(self.target_dir(kind).join("history.jsonl"));
        if !text.ends_with('\n') && !text.is_empty() {
            return Err("history is torn".into());
        }
        for line in text.lines() {
            let entry: HistoryEntry = serde_json::from_str(line).map_err(|e| format!("history: {e}: {line}"))?;
            let refused = entry.outcome == "rolled_back" || entry.outcome == "quarantined";
            if refused && entry.reason.is_none_or(|reason| reason.is_empty()) {
                return Err(format!("history does not say why: {line}"));
            }
        }
        Ok(())
    }

    /// Nothing lies about that has no business there.
    fn no_litter(&self) -> Result<(), String> {
        let dir = &self.agent.dir;
        allowed(&dir.join("state"), &["lock", "key", "control.sock", "targets", "overlap.json", "sealed"])?;
        if let Some(runtime) = &self.runtime {
            allowed(runtime.path(), &[])?;
        }
        for kind in &self.kinds {
            allowed(&self.target_dir(*kind), &["journal", "history.jsonl", "generations", "process.json"])?;
            let generations = self.target_dir(*kind).join("generations");
            let (_, strange): (Vec<_>, Vec<_>) =
                names(&generations).into_iter().partition(|n| n == "next" || n.bytes().all(|b| b.is_ascii_digit()));
            if !strange.is_empty() {
                return Err(format!("{strange:?} lie about in {}", generations.display()));
            }
            let out = dir.join("out").join(kind.name());
            let gens: Vec<_> = names(&out).into_iter().filter(|name| name.starts_with("..gen-")).collect();
            let mut may = vec!["app.env", "app.json", "app.conf"];
            if *kind == Kind::Directory {
                may.extend(["..data", gens.first().map_or("", String::as_str)]);
            }
            allowed(&out, &may)?;
        }
        Ok(())
    }

    /// One process a target, and none of anybody else's.
    fn no_process_too_many(&self) -> Result<(), String> {
        let others = [Some(self.agent.pid()), self.listener.as_ref().map(|listener| listener.pid())];
        let found = proc::all_in(&self.agent.dir);
        let found: Vec<_> = found.into_iter().filter(|process| !others.contains(&Some(process.pid))).collect();
        let mut expected = 0;
        for kind in self.kinds.iter().filter(|kind| kind.supervised()) {
            let name = kind.name();
            let record = self.agent.read(self.target_dir(*kind).join("process.json"));
            let record: serde_json::Value = serde_json::from_str(&record).map_err(|e| format!("process.json: {e}"))?;
            let ours = |mark: &Option<String>| mark.as_ref().is_some_and(|mark| mark.ends_with(&format!("/{name}")));
            let marked: Vec<_> = found.iter().filter(|process| ours(&process.mark)).collect();
            // The other one leaves a descendant in a session of its own.
            let many = if *kind == Kind::Directory { 2 } else { 1 };
            let served = self.agent.read(format!("{name}.serving"));
            let served = served.split(' ').nth(1).map(str::trim).and_then(|pid| pid.parse::<i64>().ok());
            let recorded = record["pid"].as_i64();
            let there = marked.iter().any(|process| Some(i64::from(process.pid)) == recorded);
            if marked.len() != many || !there || served != recorded {
                return Err(format!("{name}: recorded {recorded:?}, serving {served:?}, there are {marked:?}"));
            }
            expected += many;
        }
        if found.len() != expected { Err(format!("left over is one of {found:?}")) } else { Ok(()) }
    }

    /// Right after a kill, once a target has ever rested: every file whole, with its mode and owner; in a `directory`
    /// all of one generation.
    pub fn look_at_wreck(&self, by: &str) {
        for kind in self.rested.keys() {
            let said = self.said(*kind).unwrap_or_else(|why| panic!("after {by}: {kind:?}: {why}"));
            self.attributes(*kind).unwrap_or_else(|why| panic!("after {by}: {kind:?}: {why}"));
            let numbers: Vec<_> = said.iter().map(|(value, _)| number(value)).collect();
            assert!(numbers.iter().all(|n| *n <= self.newest), "after {by}: {kind:?}: {said:?}");
            if *kind == Kind::Directory {
                assert!(said.iter().all(|other| *other == said[0]), "after {by}: {said:?}");
            }
        }
        let faults = self.agent.read("faults");
        assert!(faults.is_empty(), "after {by}: {faults}\nlog:\n{}", self.log());
    }

    /// Ends it in order; nothing of it may be left.
    #[track_caller]
    pub fn end(mut self) {
        assert_eq!(self.agent.history().len(), {
            let line = |kind: &Kind| self.agent.read(self.target_dir(*kind).join("history.jsonl")).lines().count();
            self.kinds.iter().map(line).sum::<usize>().min(self.agent.history().len())
        });
        self.agent.stop();
        self.listener = None;
        let until = Instant::now() + DEADLINE;
        loop {
            let left = proc::all_in(&self.agent.dir);
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < until, "left over: {left:?}\nlog:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A value's number.
pub fn number(value: &str) -> u32 {
    value.split_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(u32::MAX)
}

fn said_by_env(text: &str) -> Option<Said> {
    let lines = text.strip_suffix('\n')?.split('\n').collect::<Vec<_>>();
    let [value, snapshot] = lines.as_slice() else { return None };
    let plain = |text: &str| text.trim_matches(['\'', '"']).to_owned();
    Some((plain(value.strip_prefix("export VALUE=")?), plain(snapshot.strip_prefix("export SNAPSHOT=")?)))
}

fn said_by_json(text: &str) -> Option<Said> {
    let json: serde_json::Value = serde_json::from_str(text).ok()?;
    Some((json["value"].as_str()?.to_owned(), json["snapshot"].as_str()?.to_owned()))
}

fn said_by_conf(text: &str) -> Option<Said> {
    let (first, rest) = text.split_once('\n')?;
    let (padding, last) = rest.split_once('\n')?;
    let (value, snapshot) = first.split_once(' ')?;
    let whole = padding.len() == PADDING && last.strip_suffix('\n')? == first;
    whole.then(|| (value.to_owned(), snapshot.to_owned()))
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn allowed(dir: &Path, may: &[&str]) -> Result<(), String> {
    let strange: Vec<_> = names(dir).into_iter().filter(|name| !may.contains(&name.as_str())).collect();
    if strange.is_empty() { Ok(()) } else { Err(format!("{strange:?} lie about in {}", dir.display())) }
}
