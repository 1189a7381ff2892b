//! `targets/NAME/process.json`: which process was started for a target, written before its program runs. What an agent
//! that comes back after a crash knows of it. In a handover there are two, each with a record of its own.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::process::pidfd::Pidfd;
use crate::process::procfs::{self, Stat};

const TARGETS: &str = "targets";

/// What a process is to its target, as its record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// It serves.
    Serving,
    /// It was started beside the one that serves, and is not committed yet.
    Trial,
    /// It served, and was told to end.
    Leaving,
}

impl Slot {
    const ALL: [Self; 3] = [Self::Serving, Self::Trial, Self::Leaving];

    fn file(self) -> &'static str {
        match self {
            Self::Serving => "process.json",
            Self::Trial => "process-trial.json",
            Self::Leaving => "process-leaving.json",
        }
    }
}

/// A process by all that names it for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Process id, and the id of the group that it leads.
    pub pid: i32,
    /// When it started, in clock ticks after boot.
    pub start_ticks: u64,
    /// Of which boot.
    pub boot_id: String,
    /// The session that it and its group belong to.
    pub session: i32,
    /// The target.
    pub target: String,
    /// What its environment carries (`LEASEHOLD_PROCESS`), and that of its descendants.
    #[serde(default)]
    pub mark: String,
    /// When it was told to end, in milliseconds after boot: its drain goes on counting from there in another agent's life.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<u64>,
}

impl Record {
    /// Of a process that lives and is our child, so that the number cannot be reused meanwhile.
    pub(super) fn of(pid: i32, target: &str, mark: &str) -> io::Result<Self> {
        let stat = procfs::stat(pid)?.ok_or_else(|| io::Error::other("it is already gone"))?;
        Ok(Self {
            pid,
            start_ticks: stat.start_ticks,
            boot_id: procfs::boot_id()?,
            session: stat.session,
            target: target.to_owned(),
            mark: mark.to_owned(),
            told: None,
        })
    }

    /// Takes hold of exactly this process. None: it has ended, whoever has its number now.
    pub(super) fn hold(&self) -> io::Result<Option<Pidfd>> {
        let Some(pidfd) = Pidfd::open(self.pid)? else { return Ok(None) };
        // Held now; but is it still the one that was recorded?
        Ok(if self.is_alive()? { Some(pidfd) } else { None })
    }

    /// Whether exactly this process is there, and no zombie.
    pub(super) fn is_alive(&self) -> io::Result<bool> {
        let now = procfs::stat(self.pid)?;
        Ok(self.of_this_boot() && now.is_some_and(|now| now.start_ticks == self.start_ticks && now.alive()))
    }

    /// Whether both are of one process, whatever else they say of it.
    pub(super) fn is_of(&self, other: &Self) -> bool {
        (self.pid, self.start_ticks, &self.boot_id) == (other.pid, other.start_ticks, &other.boot_id)
    }

    /// How long ago it was told to end, if it was.
    pub(super) fn told_ago(&self) -> Option<Duration> {
        self.told.map(|told| procfs::since_boot().saturating_sub(Duration::from_millis(told)))
    }

    /// The same, told to end at this moment.
    pub(super) fn told_now(&self) -> Self {
        let told = u64::try_from(procfs::since_boot().as_millis()).unwrap_or(u64::MAX);
        Self { told: Some(told), ..self.clone() }
    }

    /// Whether `stat` (of this boot) is the recorded process, or of the group that it left behind.
    ///
    /// While a group has members its number is not given to a new process; a number that came back belongs to a process
    /// that started later, whose own group this is then.
    pub(super) fn covers(&self, stat: &Stat, leader: Option<&Stat>) -> bool {
        if stat.pid == self.pid {
            return stat.start_ticks == self.start_ticks;
        }
        let group = stat.pgrp == self.pid && stat.session == self.session && stat.start_ticks >= self.start_ticks;
        group && leader.is_none_or(|leader| leader.start_ticks == self.start_ticks)
    }

    /// Whether it was written since this machine booted.
    pub(super) fn of_this_boot(&self) -> bool {
        procfs::boot_id().is_ok_and(|boot| boot == self.boot_id)
    }

    /// Writes it so that it survives a crash of the machine.
    pub(super) fn write(&self, state_dir: &Path, slot: Slot) -> io::Result<()> {
        let path = path(state_dir, &self.target, slot);
        let folder = path.parent().unwrap_or(state_dir);
        DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let temporary = path.with_extension("json.tmp");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        File::open(folder)?.sync_all()
    }

    /// None: there is none, or it was never finished.
    pub(super) fn read(state_dir: &Path, target: &str, slot: Slot) -> io::Result<Option<Self>> {
        match fs::read(path(state_dir, target, slot)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All of a target's.
    pub(super) fn all(state_dir: &Path, target: &str) -> io::Result<Vec<(Slot, Self)>> {
        let mut all = Vec::new();
        for slot in Slot::ALL {
            all.extend(Self::read(state_dir, target, slot)?.map(|record| (slot, record)));
        }
        Ok(all)
    }

    /// Forgets one. One that is gone is no error.
    pub(super) fn remove(state_dir: &Path, target: &str, slot: Slot) -> io::Result<()> {
        absent_is_fine(fs::remove_file(path(state_dir, target, slot)))
    }

    /// Forgets all of a target's.
    pub(super) fn remove_all(state_dir: &Path, target: &str) -> io::Result<()> {
        Slot::ALL.into_iter().try_for_each(|slot| Self::remove(state_dir, target, slot))
    }

    /// Another role for a process, in one rename; the one that had it is forgotten.
    pub(super) fn rename(state_dir: &Path, target: &str, from: Slot, to: Slot) -> io::Result<()> {
        absent_is_fine(fs::rename(path(state_dir, target, from), path(state_dir, target, to)))
    }

    /// Names of all targets that may have one.
    pub(super) fn targets(state_dir: &Path) -> io::Result<Vec<String>> {
        match fs::read_dir(state_dir.join(TARGETS)) {
            Ok(entries) => Ok(entries.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn absent_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn path(state_dir: &Path, target: &str, slot: Slot) -> PathBuf {
    state_dir.join(TARGETS).join(target).join(slot.file())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(pid: i32, pgrp: i32, session: i32, start_ticks: u64) -> Stat {
        Stat { pid, comm: "x".into(), state: 'S', ppid: 1, pgrp, session, start_ticks }
    }

    #[test]
    fn a_record_covers_its_process_and_its_group_but_no_stranger_with_the_number() {
        let record = Record {
            pid: 50,
            start_ticks: 1000,
            boot_id: "b".into(),
            session: 7,
            target: "t".into(),
            mark: "m".into(),
            told: None,
        };
        let leader = stat(50, 50, 7, 1000);
        assert!(record.covers(&leader, Some(&leader)));
        assert!(record.covers(&stat(51, 50, 7, 1001), Some(&leader)));
        assert!(record.covers(&stat(51, 50, 7, 1001), None));
        let stranger = stat(50, 50, 7, 2000);
        assert!(!record.covers(&stranger, Some(&stranger)));
        assert!(!record.covers(&stat(51, 50, 7, 2001), Some(&stranger)));
        assert!(!record.covers(&stat(51, 50, 9, 1001), None));
        assert!(!record.covers(&stat(51, 51, 7, 1001), Some(&leader)));
    }

    #[tokio::test]
    async fn a_process_is_held_by_all_that_names_it_and_not_by_its_number() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let record = Record::of(i32::try_from(child.id()).unwrap(), "t", "m").unwrap();
        assert!(record.hold().unwrap().is_some() && record.told_now().is_of(&record));
        let stranger = Record { start_ticks: record.start_ticks - 1, ..record.clone() };
        let of_another_boot = Record { boot_id: "b".into(), ..record.clone() };
        for other in [stranger, of_another_boot] {
            assert!(other.hold().unwrap().is_none() && !other.is_of(&record), "{other:?}");
        }
        child.kill().unwrap();
        while record.is_alive().unwrap() {
            tokio::task::yield_now().await;
        }
        assert!(record.hold().unwrap().is_none(), "a zombie");
        child.wait().unwrap();
        assert!(record.hold().unwrap().is_none());
    }

    #[test]
    fn a_record_is_read_back_and_half_of_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let record = Record {
            pid: 50,
            start_ticks: 1,
            boot_id: "b".into(),
            session: 7,
            target: "t".into(),
            mark: "m".into(),
            told: Some(5),
        };
        assert_eq!(Record::read(dir.path(), "t", Slot::Serving).unwrap(), None);
        Record::remove(dir.path(), "t", Slot::Serving).unwrap();
        record.write(dir.path(), Slot::Serving).unwrap();
        assert_eq!(Record::read(dir.path(), "t", Slot::Serving).unwrap(), Some(record.clone()));
        Record::rename(dir.path(), "t", Slot::Serving, Slot::Leaving).unwrap();
        assert_eq!(Record::all(dir.path(), "t").unwrap(), [(Slot::Leaving, record.clone())]);
        Record::rename(dir.path(), "t", Slot::Leaving, Slot::Serving).unwrap();
        Record::rename(dir.path(), "t", Slot::Trial, Slot::Serving).unwrap();
        assert_eq!(Record::targets(dir.path()).unwrap(), ["t"]);
        assert!(!record.of_this_boot());
        fs::write(path(dir.path(), "t", Slot::Serving), "{\"pid\":5").unwrap();
        assert_eq!(Record::read(dir.path(), "t", Slot::Serving).unwrap(), None);
        Record::remove(dir.path(), "t", Slot::Serving).unwrap();
        assert_eq!(Record::read(dir.path(), "t", Slot::Serving).unwrap(), None);
    }
}
