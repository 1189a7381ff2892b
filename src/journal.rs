//! What a target was about to do, and what came of it: the journal that recovery reads, and the history that people read.
//!
//! Both hold names, versions, digests and ids, never a value. What is in them is the machine's to say: here they are only
//! kept, whole and synced. Under `state_key` the journal is sealed; the history, which people read with no agent running,
//! stays in the clear.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use ring::digest::{SHA256, digest};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::durable::{self, AppendLog, FileError};
use crate::failpoint;
use crate::seal::{Seal, SealError, open_if_sealed};

const NAME: &str = "journal";
const PURPOSE: &str = "journal";
const FORMAT: u32 = 1;
const JOURNAL_CAP: u64 = 16 * 1024 * 1024;
/// Copies of unreadable journals that are kept; more would only fill the disk of a machine that has other troubles.
const CORRUPT_CAP: u32 = 16;

/// The first line of a journal.
#[derive(serde::Serialize, serde::Deserialize)]
struct Header {
    format: u32,
    sha256: String,
}

/// One target's journal: one document, replaced as a whole.
pub struct JournalFile<T> {
    path: PathBuf,
    seal: Option<Seal>,
    holds: PhantomData<fn(&T) -> T>,
}

impl<T: Serialize + DeserializeOwned> JournalFile<T> {
    /// The journal in a target's folder (`targets/NAME`), sealed where there is a seal (of that folder). Touches no file.
    pub fn new(target_dir: &Path, seal: Option<Seal>) -> Self {
        Self { path: target_dir.join(NAME), seal, holds: PhantomData }
    }

    /// Reads it, sealed or from before there was a key. None where nothing was ever stored.
    ///
    /// # Errors
    /// Where it cannot be read; or where it is torn, tampered with or from a newer Leasehold: then a copy is kept beside
    /// it as `journal.corrupt-N`, the file itself stays, and only a [`JournalFile::store`] replaces it. Where it is sealed
    /// and the key is missing or another one: then nothing is wrong with it, and no copy is kept.
    pub fn load(&self) -> Result<Option<T>, FileError> {
        let Some(bytes) = durable::read(&self.path, JOURNAL_CAP)? else { return Ok(None) };
        let plain = match open_if_sealed(self.seal.as_ref(), PURPOSE, Path::new(NAME), bytes.clone()) {
            Ok(plain) => plain,
            Err(error @ (SealError::NoKey | SealError::OtherKey)) => return Err(error.at(&self.path)),
            Err(error) => return Err(self.corrupt(&bytes, error.to_string())),
        };
        match parse(plain.expose()) {
            Ok(document) => Ok(Some(document)),
            Err(why) => Err(self.corrupt(&bytes, why)),
        }
    }

    /// Replaces it; it is on the disk when this returns.
    ///
    /// # Errors
    /// With the journal before intact, unless only the last sync failed: then it is one or the other, whole.
    pub fn store(&self, document: &T) -> Result<(), FileError> {
        failpoint::hit("journal.before");
        let fail = |error: serde_json::Error| FileError::corrupt(&self.path, error.to_string(), "report this as a bug");
        let body = serde_json::to_vec(document).map_err(fail)?;
        let header = Header { format: FORMAT, sha256: sha256(&body) };
        let mut bytes = serde_json::to_vec(&header).map_err(fail)?;
        bytes.push(b'\n');
        bytes.extend_from_slice(&body);
        bytes.push(b'\n');
        if let Some(seal) = &self.seal {
            bytes = seal.seal(PURPOSE, Path::new(NAME), &bytes).map_err(|error| error.at(&self.path))?;
        }
        durable::replace(&self.path, &bytes, "journal")
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn corrupt(&self, bytes: &[u8], why: String) -> FileError {
        let kept = (1..=CORRUPT_CAP).find_map(|n| {
            let copy = self.path.with_file_name(format!("journal.corrupt-{n}"));
            match durable::read(&copy, JOURNAL_CAP) {
                Ok(Some(before)) if before == bytes => Some(copy),
                Ok(None) => durable::replace(&copy, bytes, "journal.corrupt").ok().map(|()| copy),
                _ => None,
            }
        });
        let hint = match kept {
            Some(copy) => format!(
                "a copy is kept at {}; put back a good journal, or remove this one to let the agent find out anew what is \
                 published",
                copy.display()
            ),
            None => "no copy could be kept; move it away by hand before going on".to_owned(),
        };
        FileError::corrupt(&self.path, why, hint)
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("it has no header")?;
    let (head, rest) = bytes.split_at(end);
    let header: Header = serde_json::from_slice(head).map_err(|_| "its header is torn")?;
    if header.format > FORMAT {
        return Err(format!(
            "it was written by a newer Leasehold (format {}, this one reads {FORMAT}): upgrade again",
            header.format
        ));
    }
    let body = rest.get(1..).and_then(|rest| rest.strip_suffix(b"\n")).ok_or("its end is missing")?;
    if sha256(body) != header.sha256 {
        return Err("its contents do not match its checksum".to_owned());
    }
    serde_json::from_slice(body).map_err(|error| format!("its contents make no sense to this version: {error}"))
}

fn sha256(bytes: &[u8]) -> String {
    digest(&SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One target's history: one JSON document a line, the newest last, bounded in size.
pub struct History<T> {
    path: PathBuf,
    log: AppendLog,
    limit: u64,
    holds: PhantomData<fn(&T) -> T>,
}

impl<T: Serialize + DeserializeOwned> History<T> {
    /// Size at which the older half is dropped.
    pub const LIMIT: u64 = 1024 * 1024;

    /// Opens the history in a target's folder, to append; a line that a crash tore is cut off.
    ///
    /// # Errors
    /// Whatever the system answers.
    pub fn open(target_dir: &Path) -> Result<Self, FileError> {
        Self::open_with_limit(target_dir, Self::LIMIT)
    }

    /// The same with another bound in bytes.
    ///
    /// # Errors
    /// Whatever the system answers.
    pub fn open_with_limit(target_dir: &Path, limit: u64) -> Result<Self, FileError> {
        let path = Self::path_in(target_dir);
        let log = AppendLog::open(&path, 0o600)?;
        Ok(Self { path, log, limit, holds: PhantomData })
    }

    /// Adds one entry; it is on the disk when this returns.
    ///
    /// # Errors
    /// With the entries before intact.
    pub fn append(&mut self, entry: &T) -> Result<(), FileError> {
        let line = serde_json::to_vec(entry)
            .map_err(|error| FileError::corrupt(&self.path, error.to_string(), "report this as a bug"))?;
        if !self.log.is_empty() && self.log.len() + line.len() as u64 >= self.limit {
            self.drop_older_half()?;
        }
        self.log.append(&line)?;
        failpoint::hit("history.after_append");
        Ok(())
    }

    /// The last `count` entries of a target's history, the oldest of them first. Opens it only to read: lines that are
    /// torn or that this version cannot read are left out.
    ///
    /// # Errors
    /// Whatever the system answers. A history that is not there is empty.
    pub fn last(target_dir: &Path, count: usize) -> Result<Vec<T>, FileError> {
        let bytes = durable::read(&Self::path_in(target_dir), u64::from(u32::MAX))?.unwrap_or_default();
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').unwrap_or(0);
        let mut entries: Vec<T> = bytes
            .get(..whole)
            .unwrap_or_default()
            .rsplit(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice(line).ok())
            .take(count)
            .collect();
        entries.reverse();
        Ok(entries)
    }

    fn path_in(target_dir: &Path) -> PathBuf {
        target_dir.join("history.jsonl")
    }

    fn drop_older_half(&mut self) -> Result<(), FileError> {
        let bytes = durable::read(&self.path, u64::from(u32::MAX))?.unwrap_or_default();
        let half = bytes.len() / 2;
        let newer = bytes.get(half..).unwrap_or_default();
        let cut = newer.iter().position(|byte| *byte == b'\n').map_or(newer.len(), |at| at + 1);
        durable::replace(&self.path, newer.get(cut..).unwrap_or_default(), "history")?;
        self.log = AppendLog::open(&self.path, 0o600)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flipped_digit_is_found_and_a_copy_is_kept_once() {
        let dir = tempfile::tempdir().unwrap();
        let journal = JournalFile::<u64>::new(dir.path(), None);
        assert_eq!(journal.load().unwrap(), None);
        journal.store(&41).unwrap();
        assert_eq!(journal.load().unwrap(), Some(41));
        let flipped = std::fs::read_to_string(journal.path()).unwrap().replace("\n41\n", "\n42\n");
        std::fs::write(journal.path(), &flipped).unwrap();
        for _ in 0..2 {
            let error = journal.load().unwrap_err();
            assert!(error.to_string().contains("checksum"), "{error}");
            assert!(error.to_string().contains("journal.corrupt-1"), "{error}");
        }
        assert_eq!(std::fs::read_to_string(dir.path().join("journal.corrupt-1")).unwrap(), flipped);
        assert!(!dir.path().join("journal.corrupt-2").exists());
        journal.store(&43).unwrap();
        assert_eq!(journal.load().unwrap(), Some(43));
    }

    #[test]
    fn a_sealed_journal_is_read_with_its_key_and_one_of_before_without() {
        let dir = tempfile::tempdir().unwrap();
        let seal = |byte| Seal::new(&[byte; 32]);
        let journal = |seal| JournalFile::<String>::new(dir.path(), seal);
        journal(None).store(&"before".to_owned()).unwrap();
        assert_eq!(journal(seal(1)).load().unwrap().as_deref(), Some("before"));
        journal(seal(1)).store(&"a word".to_owned()).unwrap();
        let bytes = std::fs::read(journal(None).path()).unwrap();
        assert!(!bytes.windows(6).any(|window| window == b"a word"));
        assert_eq!(journal(seal(1)).load().unwrap().as_deref(), Some("a word"));
        for (seal, why) in [(None, "gives no `state_key`"), (seal(2), "another key than `state_key`")] {
            let error = journal(seal).load().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(!dir.path().join("journal.corrupt-1").exists(), "a missing key is no fault of the journal's");
        std::fs::write(journal(None).path(), &bytes[..bytes.len() - 1]).unwrap();
        let error = journal(seal(1)).load().unwrap_err().to_string();
        assert!(error.contains("torn") && error.contains("journal.corrupt-1"), "{error}");
    }

    #[test]
    fn every_torn_journal_is_an_error_never_a_value() {
        let dir = tempfile::tempdir().unwrap();
        let journal = JournalFile::<Vec<u32>>::new(dir.path(), None);
        journal.store(&vec![1, 2, 3]).unwrap();
        let whole = std::fs::read(journal.path()).unwrap();
        for end in 0..whole.len() {
            assert!(parse::<Vec<u32>>(&whole[..end]).is_err(), "cut at {end}");
        }
        assert_eq!(parse::<Vec<u32>>(&whole), Ok(vec![1, 2, 3]));
    }

    #[test]
    fn a_journal_of_a_newer_format_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let journal = JournalFile::<u64>::new(dir.path(), None);
        journal.store(&1).unwrap();
        let newer = std::fs::read_to_string(journal.path()).unwrap().replace("\"format\":1", "\"format\":2");
        std::fs::write(journal.path(), newer).unwrap();
        assert!(journal.load().unwrap_err().to_string().contains("newer Leasehold"));
    }

    #[test]
    fn a_history_keeps_the_newest_and_survives_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("history.jsonl");
        assert!(History::<u64>::last(dir.path(), 5).unwrap().is_empty());
        let mut history = History::<u64>::open_with_limit(dir.path(), 400).unwrap();
        for entry in 1000..1500u64 {
            history.append(&entry).unwrap();
            assert!(std::fs::metadata(&path).unwrap().len() <= 400);
        }
        assert_eq!(History::<u64>::last(dir.path(), 3).unwrap(), [1497, 1498, 1499]);
        let kept = History::<u64>::last(dir.path(), 1000).unwrap();
        assert!(kept.len() >= 39, "{}", kept.len());
        assert!(kept.windows(2).all(|pair| pair[0] + 1 == pair[1]), "no line is torn by dropping the older half");
        drop(history);
        let mut torn = std::fs::read(&path).unwrap();
        torn.extend_from_slice(b"15");
        std::fs::write(&path, torn).unwrap();
        History::<u64>::open_with_limit(dir.path(), 400).unwrap().append(&1500).unwrap();
        assert_eq!(History::<u64>::last(dir.path(), 2).unwrap(), [1499, 1500]);
    }
}
