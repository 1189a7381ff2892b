//! What goes wrong around published files: kills at every instant, full and read-only disks, lost permissions, races.
//!
//! A child process is this very test binary, asked for the test `child` with a task in its environment.

// Helpers outside of #[test] functions may fail a test, too.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use leasehold::digest::Key;
use leasehold::durable::FileErrorKind;
use leasehold::generation::{Generations, Live, Manifest, Origin};
use leasehold::journal::JournalFile;
use leasehold::render::{Rendered, RenderedFile};
use leasehold::seal::Seal;
use leasehold::secret::SecretBytes;
use rustix::fs::{CWD, Mode, OFlags};

const KINDS: [&str; 3] = ["plain", "directory", "sealed"];
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn skip(why: &str) {
    eprintln!("SKIP: {why}");
    assert_ne!(std::env::var("LEASEHOLD_REQUIRE").as_deref(), Ok("all"), "required, but: {why}");
}

/// A target in a folder: `state/` and `live/`.
struct Target {
    root: PathBuf,
    kind: String,
    /// Where `live/` is, if not in the same folder.
    live: Option<PathBuf>,
}

impl Target {
    fn new(root: &Path, kind: &str) -> Self {
        Self { root: root.to_owned(), kind: kind.to_owned(), live: None }
    }

    fn live(&self) -> PathBuf {
        self.live.clone().unwrap_or_else(|| self.root.join("live"))
    }

    /// Files one by one, and all that is kept of them sealed.
    fn seal(&self) -> Option<Seal> {
        (self.kind == "sealed").then(|| Seal::new(&[7; 32]).unwrap())
    }

    fn generations(&self) -> Generations {
        Generations::open(&self.root.join("state/generations"), &Key::new(b"test"), self.seal().as_ref()).unwrap()
    }

    fn journal(&self) -> JournalFile<String> {
        JournalFile::new(&self.root.join("state"), self.seal())
    }

    /// Files `a` and `b` in every version, one more that only this version has. Long enough to be torn if it can be.
    fn version(&self, version: &str) -> Rendered {
        let file = |name: &str, mode| RenderedFile {
            path: self.live().join(name),
            bytes: Arc::new(SecretBytes::from(format!("{version}\n").repeat(3000))),
            mode,
            uid: is_root().then_some(4242),
            gid: is_root().then_some(4343),
            follow_symlinks: false,
        };
        let only = format!("only-{version}");
        Rendered {
            files: vec![file("a", 0o640), file("b", 0o604), file(&only, 0o600)],
            directory: (self.kind == "directory").then(|| self.live()),
            env: vec![("KEY".to_owned(), SecretBytes::from(version))],
            health: None,
        }
    }

    fn take_live(&self, version: &str, earlier: &[&Manifest]) -> Manifest {
        let generations = self.generations();
        let staged = generations.stage(&self.version(version), origin()).unwrap();
        generations.publish(staged.id(), earlier).unwrap();
        staged.manifest
    }

    /// The version of one live file, after proving that it is whole and that its mode and owner are right.
    fn whole(&self, name: &str, versions: &[&str]) -> Option<String> {
        let fd = rustix::fs::open(self.live().join(name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
        let mode = if name.ends_with('a') { 0o640 } else { 0o604 };
        Some(self.whole_fd(fd.into(), name, mode, versions))
    }

    fn whole_fd(&self, mut file: std::fs::File, name: &str, mode: u32, versions: &[&str]) -> String {
        let stat = file.metadata().unwrap();
        assert_eq!(stat.mode() & 0o7777, mode, "{name}");
        if is_root() {
            assert_eq!((stat.uid(), stat.gid()), (4242, 4343), "{name}");
        }
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        let version = versions.iter().find(|version| text == format!("{version}\n").repeat(3000));
        (*version.unwrap_or_else(|| panic!("{name} is torn: {} bytes", text.len()))).to_owned()
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = std::fs::read_dir(self.live()).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// The names that a user should see, with nothing left over beside them.
    fn assert_tidy(&self, version: &str) {
        let mut names = self.names();
        if self.kind == "directory" {
            assert!(names.remove("..data"));
            let generation = std::fs::read_link(self.live().join("..data")).unwrap();
            assert!(names.remove(generation.to_str().unwrap()));
        }
        let want = ["a".to_owned(), "b".to_owned(), format!("only-{version}")];
        assert_eq!(names, BTreeSet::from(want), "nothing is left over");
    }
}

fn origin() -> Origin {
    Origin {
        created_at: Timestamp::UNIX_EPOCH,
        inputs: "i".to_owned(),
        snapshot: "s".to_owned(),
        versions: BTreeMap::new(),
        previous: BTreeMap::new(),
        verified: BTreeMap::new(),
    }
}

fn child_command(exe: &Path, target: &Target, task: &str) -> Command {
    let mut command = Command::new(exe);
    command.args(["--exact", "child", "--nocapture", "--test-threads=1"]);
    command.env("LEASEHOLD_TEST_TASK", task).env("LEASEHOLD_TEST_ROOT", &target.root);
    command.env("LEASEHOLD_TEST_KIND", &target.kind).current_dir("/");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Not a test by itself: what a child process does.
#[test]
fn child() {
    let Ok(task) = std::env::var("LEASEHOLD_TEST_TASK") else { return };
    let root = PathBuf::from(std::env::var_os("LEASEHOLD_TEST_ROOT").unwrap());
    let target = Target::new(&root, &std::env::var("LEASEHOLD_TEST_KIND").unwrap());
    match task.as_str() {
        "rotate" => rotate(&target),
        "loop" => rotate_for_ever(&target),
        "denied" => denied(&target),
        "sticky" => sticky(&target),
        other => panic!("no such task: {other}"),
    }
}

/// Forward from `old` to `new`; then a third that is thrown away, so that the last number must be remembered.
fn rotate(target: &Target) {
    let generations = target.generations();
    let old = generations.manifest(*generations.ids().unwrap().first().unwrap()).unwrap();
    let staged = generations.stage(&target.version("new"), origin()).unwrap();
    // As for a check; where there is no memory for it, what is sealed cannot be checked.
    drop(generations.plain(staged.id()));
    target.journal().store(&"intent".to_owned()).unwrap();
    generations.publish(staged.id(), &[&old]).unwrap();
    target.journal().store(&"committed".to_owned()).unwrap();
    generations.stage(&target.version("bad"), origin()).unwrap();
    generations.prune(&BTreeSet::from([staged.id()])).unwrap();
}

fn rotate_for_ever(target: &Target) {
    let generations = target.generations();
    let mut before = generations.manifest(*generations.ids().unwrap().first().unwrap()).unwrap();
    eprintln!("ready");
    // Long enough to be killed; no longer, should the one who is to kill it be gone.
    let until = Instant::now() + Duration::from_secs(20);
    for version in ["new", "old"].into_iter().cycle().take_while(|_| Instant::now() < until) {
        let staged = generations.stage(&target.version(version), origin()).unwrap();
        generations.publish(staged.id(), &[&before]).unwrap();
        generations.prune(&BTreeSet::from([staged.id()])).unwrap();
        before = staged.manifest;
    }
}

/// After a kill: every file is whole and right; with a `directory`, all are of one generation.
fn assert_sound(target: &Target, at: &str) {
    let versions = ["old", "new"];
    let found: Vec<Option<String>> = ["a", "b"].iter().map(|name| target.whole(name, &versions)).collect();
    assert!(found.iter().all(Option::is_some), "{at}: {found:?}");
    if target.kind == "directory" {
        assert_eq!(found[0], found[1], "{at}: from two generations");
    }
    if let Some(text) = target.journal().load().unwrap() {
        assert!(["begin", "intent", "committed"].contains(&text.as_str()), "{at}");
    }
}

/// After a kill, an agent comes back: what is retained is whole, numbers are not reused, and a rotation goes through.
fn assert_recovers(target: &Target, at: &str, least_id: u64) {
    let generations = target.generations();
    let mut earlier = Vec::new();
    for (id, manifest) in generations.list().unwrap() {
        let manifest = manifest.unwrap_or_else(|error| panic!("{at}: generation {id}: {error}"));
        generations.load(id).unwrap();
        earlier.push(manifest);
    }
    let rendered = target.version("new");
    let staged = generations.stage(&rendered, origin()).unwrap();
    assert!(staged.id().0 > least_id, "{at}: {} was given twice", staged.id());
    if let (Some(_), Ok(plain)) = (target.seal(), generations.plain(staged.id())) {
        let scratch = plain.files()[0].parent().unwrap().parent().unwrap().to_owned();
        drop(plain);
        let (prefix, _) = scratch.file_name().unwrap().to_str().unwrap().rsplit_once('-').unwrap();
        let left = std::fs::read_dir(scratch.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().starts_with(prefix)).collect();
        assert!(left.is_empty(), "{at}: plaintext is left in {left:?}");
    }
    generations.publish(staged.id(), &earlier.iter().collect::<Vec<_>>()).unwrap();
    assert_eq!(generations.live(&staged.manifest), Live::Same, "{at}");
    target.assert_tidy("new");
    target.journal().store(&"after".to_owned()).unwrap();
    let state: Vec<PathBuf> = ["state", "state/generations"]
        .iter()
        .flat_map(|dir| std::fs::read_dir(target.root.join(dir)).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    let hidden = |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with('.');
    let leftovers: Vec<_> = state.iter().filter(hidden).collect();
    assert!(leftovers.is_empty(), "{at}: {leftovers:?}");
}

fn prepared(kind: &str) -> (tempfile::TempDir, Target) {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::new(dir.path(), kind);
    target.take_live("old", &[]);
    target.journal().store(&"begin".to_owned()).unwrap();
    (dir, target)
}

#[cfg(not(feature = "failpoints"))]
#[test]
fn a_kill_at_any_failpoint_loses_nothing() {
    skip("the kill test at every failpoint needs `--features failpoints`");
}

#[cfg(feature = "failpoints")]
#[test]
fn a_kill_at_any_failpoint_loses_nothing() {
    let exe = std::env::current_exe().unwrap();
    for kind in KINDS {
        let (dir, target) = prepared(kind);
        let trace = dir.path().join("trace");
        let done = child_command(&exe, &target, "rotate").env("LEASEHOLD_FAILPOINT_TRACE", &trace).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        assert_sound(&target, "no kill");
        assert_recovers(&target, "no kill", 3);
        let hits: Vec<String> = std::fs::read_to_string(&trace).unwrap().lines().map(str::to_owned).collect();
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        let last_id = |hits: &[String]| 1 + hits.iter().filter(|hit| *hit == "stage.after_rename").count() as u64;
        for (index, hit) in hits.iter().enumerate() {
            let nth = counts.entry(hit).or_default();
            *nth += 1;
            let at = format!("{hit}:{nth}");
            let (_dir, target) = prepared(kind);
            let killed = child_command(&exe, &target, "rotate").env("LEASEHOLD_FAILPOINT", &at).output().unwrap();
            let signal = std::os::unix::process::ExitStatusExt::signal(&killed.status);
            assert_eq!(signal, Some(9), "{at}: {}", String::from_utf8_lossy(&killed.stderr));
            assert_sound(&target, &at);
            assert_recovers(&target, &at, last_id(&hits[..=index]));
        }
        eprintln!("{kind}: killed at {} instants, {} names", hits.len(), counts.len());
        assert!(counts.len() > 25, "{counts:?}");
    }
}

#[test]
fn a_kill_at_a_random_instant_leaves_every_file_whole() {
    let exe = std::env::current_exe().unwrap();
    for kind in KINDS {
        for round in 0..12u64 {
            let (_dir, target) = prepared(kind);
            let mut child = child_command(&exe, &target, "loop").spawn().unwrap();
            let mut stderr = BufReader::new(child.stderr.take().unwrap());
            let mut line = String::new();
            while !line.contains("ready") {
                line.clear();
                assert_ne!(stderr.read_line(&mut line).unwrap(), 0, "the child ended");
            }
            // The instant is the point of this test: no state is waited for.
            let until = Instant::now() + Duration::from_micros(500 + round * 1371);
            while Instant::now() < until {
                // With a `directory`, the way to it may lead through a generation that goes in that very moment.
                let seen = target.whole("a", &["old", "new"]);
                assert!(seen.is_some() || kind == "directory", "a was gone");
            }
            child.kill().unwrap();
            child.wait().unwrap();
            assert_sound(&target, "random");
            assert_recovers(&target, "random", 1);
        }
    }
}

/// Tells the others when its thread ends, also by a failed assertion.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Runs `read` in a thread while that many rotations go on; answers how many times it read.
fn while_rotating(target: &Target, rotations: usize, read: impl Fn(&Target) + Send + Sync) -> u64 {
    let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _fallen = SetOnDrop(&done);
            while !done.load(Ordering::SeqCst) {
                read(target);
                reads.fetch_add(1, Ordering::SeqCst);
            }
        });
        let rotated = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let generations = target.generations();
            let mut before = generations.manifest(*generations.ids().unwrap().first().unwrap()).unwrap();
            for version in ["new", "old"].into_iter().cycle().take(rotations) {
                let staged = generations.stage(&target.version(version), origin()).unwrap();
                let seen = reads.load(Ordering::SeqCst);
                generations.publish(staged.id(), &[&before]).unwrap();
                generations.prune(&BTreeSet::from([staged.id()])).unwrap();
                before = staged.manifest;
                let deadline = Instant::now() + Duration::from_secs(5);
                while reads.load(Ordering::SeqCst) == seen && Instant::now() < deadline {
                    if done.load(Ordering::SeqCst) {
                        return;
                    }
                    std::thread::yield_now();
                }
            }
        }));
        done.store(true, Ordering::SeqCst);
        rotated.unwrap();
    });
    reads.into_inner()
}

#[test]
fn a_reader_only_ever_sees_a_whole_file_with_its_mode_and_owner() {
    for kind in KINDS {
        let (_dir, target) = prepared(kind);
        let reads = while_rotating(&target, 100, |target| {
            for name in ["a", "b"] {
                // With a `directory`, the way to a file may lead through a generation that goes in that very moment.
                let seen = target.whole(name, &["old", "new"]);
                assert!(seen.is_some() || target.kind == "directory", "{name} was gone");
            }
        });
        assert!(reads >= 100, "{reads}");
    }
}

#[test]
fn a_reader_who_opens_the_directory_once_reads_one_generation() {
    let (_dir, target) = prepared("directory");
    let whole = AtomicU64::new(0);
    while_rotating(&target, 100, |target| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(data) = rustix::fs::open(target.live().join("..data"), flags, Mode::empty()) else { return };
        let read = |name: &str, mode| {
            let fd = rustix::fs::openat(&data, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
            Some(target.whole_fd(fd.into(), name, mode, &["old", "new"]))
        };
        // What is gone is gone as a whole: a reader opens `..data` again.
        if let (Some(a), Some(b)) = (read("a", 0o640), read("b", 0o604)) {
            assert_eq!(a, b);
            whole.fetch_add(1, Ordering::SeqCst);
        }
    });
    assert!(whole.into_inner() > 50);
}

#[test]
fn a_parent_that_is_swapped_for_a_symlink_leads_nobody_astray() {
    let dir = tempfile::tempdir().unwrap();
    let target = Target::new(dir.path(), "plain");
    let (parent, decoy, victim) = (target.live(), dir.path().join("decoy"), dir.path().join("victim"));
    std::fs::create_dir_all(&parent).unwrap();
    std::fs::create_dir(&victim).unwrap();
    std::os::unix::fs::symlink(&victim, &decoy).unwrap();
    let generations = target.generations();
    let ids = ["old", "new"].map(|version| generations.stage(&target.version(version), origin()).unwrap().id());
    let done = AtomicBool::new(false);
    let (mut through, mut refused) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                let _ = rustix::fs::renameat_with(CWD, &parent, CWD, &decoy, rustix::fs::RenameFlags::EXCHANGE);
            }
        });
        let deadline = Instant::now() + Duration::from_secs(10);
        while (through < 50 || refused < 50) && Instant::now() < deadline {
            match generations.publish(ids[through % 2], &[]) {
                Ok(_) => through += 1,
                Err(_) => refused += 1,
            }
        }
        done.store(true, Ordering::SeqCst);
    });
    assert!(through > 0 && refused > 0, "{through} went through, {refused} were refused");
    assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0, "a file went through the symlink");
}

/// A small file system of its own, for as long as this lives.
struct Tmpfs(tempfile::TempDir);

impl Tmpfs {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let options = format!("size={size},mode=755");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "none"]).arg(dir.path()).output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self(dir)),
            _ => {
                skip("a small file system needs root and the right to mount");
                None
            }
        }
    }

    fn remount(&self, how: &str) {
        let options = format!("remount,{how}");
        // Busy as long as a child of another test, on its way to its own program, has what is open here.
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let done = Command::new("mount").args(["-o", &options]).arg(self.0.path()).output().unwrap();
            if done.status.success() {
                return;
            }
            assert!(Instant::now() < until, "{}", String::from_utf8_lossy(&done.stderr));
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_leaves_the_old_files_whole_and_nothing_else() {
    for kind in KINDS {
        let Some(small) = Tmpfs::mount("256k") else { return };
        let dir = tempfile::tempdir().unwrap();
        let target = Target { live: Some(small.0.path().to_owned()), ..Target::new(dir.path(), kind) };
        let generations = target.generations();
        let old = generations.stage(&target.version("old"), origin()).unwrap();
        generations.publish(old.id(), &[]).unwrap();
        let before = target.names();
        let mut large = target.version("new");
        large.files[1].bytes = Arc::new(SecretBytes::new(vec![b'x'; 300_000]));
        let id = generations.stage(&large, origin()).unwrap().id();
        let error = generations.publish(id, &[&old.manifest]).unwrap_err();
        assert_eq!((error.source.kind(), error.source.exit_code()), (FileErrorKind::Full, 74));
        assert!(!error.may_have_happened);
        assert!(error.to_string().contains("free space"), "{error}");
        assert!(error.source.path.ends_with("b"), "the file is named, not its temporary one: {error}");
        assert_eq!((target.names(), generations.live(&old.manifest)), (before, Live::Same));
        let fits = generations.stage(&target.version("new"), origin()).unwrap();
        generations.publish(fits.id(), &[&old.manifest]).unwrap();
        assert_eq!(generations.live(&fits.manifest), Live::Same);
    }
}

#[test]
fn a_full_state_dir_loses_neither_journal_nor_generations() {
    let Some(small) = Tmpfs::mount("256k") else { return };
    let target = Target::new(small.0.path(), "plain");
    let old = target.take_live("old", &[]);
    target.journal().store(&"begin".to_owned()).unwrap();
    let generations = target.generations();
    let mut large = target.version("new");
    large.files[0].bytes = Arc::new(SecretBytes::new(vec![b'x'; 300_000]));
    let error = generations.stage(&large, origin()).unwrap_err();
    assert_eq!(error.kind(), FileErrorKind::Full);
    assert_eq!(
        std::fs::read_dir(small.0.path().join("state/generations")).unwrap().count(),
        1,
        "nothing is left behind"
    );
    std::fs::write(small.0.path().join("filler"), vec![b'x'; 300_000]).unwrap_err();
    assert_eq!(target.journal().store(&"x".repeat(5000)).unwrap_err().kind(), FileErrorKind::Full);
    assert_eq!(target.journal().load().unwrap().as_deref(), Some("begin"));
    assert_eq!(generations.live(&old), Live::Same);
    std::fs::remove_file(small.0.path().join("filler")).unwrap();
    target.take_live("new", &[&old]);
}

#[test]
fn a_read_only_file_system_is_named_and_recovered_from() {
    for kind in KINDS {
        let Some(small) = Tmpfs::mount("1m") else { return };
        let dir = tempfile::tempdir().unwrap();
        let target = Target { live: Some(small.0.path().to_owned()), ..Target::new(dir.path(), kind) };
        let generations = target.generations();
        let old = generations.stage(&target.version("old"), origin()).unwrap();
        let new = generations.stage(&target.version("new"), origin()).unwrap();
        generations.publish(old.id(), &[]).unwrap();
        small.remount("ro");
        let error = generations.publish(new.id(), &[&old.manifest]).unwrap_err();
        assert!(!error.may_have_happened && error.source.exit_code() == 74);
        assert!(error.to_string().contains("ReadWritePaths="), "{error}");
        assert_eq!(generations.live(&old.manifest), Live::Same);
        assert!(generations.publish(old.id(), &[&old.manifest]).unwrap().changed.is_empty(), "nothing to do, no error");
        small.remount("rw");
        generations.publish(new.id(), &[&old.manifest]).unwrap();
        assert_eq!(generations.live(&new.manifest), Live::Same);
    }
}

#[test]
fn a_bind_mounted_file_is_refused_before_any_other_is_touched() {
    let Some(small) = Tmpfs::mount("1m") else { return };
    let target = Target::new(small.0.path(), "plain");
    let old = target.take_live("old", &[]);
    let file = target.live().join("b");
    let mounted = Command::new("mount").arg("--bind").arg(&file).arg(&file).status().unwrap();
    assert!(mounted.success());
    let generations = target.generations();
    assert!(generations.publish(old.id, &[]).unwrap().changed.is_empty(), "the same bytes need no rename");
    let new = generations.stage(&target.version("new"), origin()).unwrap();
    let error = generations.publish(new.id(), &[&old]).unwrap_err();
    assert!(!error.may_have_happened && error.to_string().contains("mount the folder that it is in"), "{error}");
    assert_eq!(generations.live(&old), Live::Same);
    assert!(Command::new("umount").arg(&file).status().unwrap().success());
    generations.publish(new.id(), &[&old]).unwrap();
}

/// Runs as somebody who may not replace `b`, which is another's in a sticky folder: that shows only at the rename.
fn sticky(target: &Target) {
    let generations = target.generations();
    let old = generations.manifest(*generations.ids().unwrap().first().unwrap()).unwrap();
    let new = generations.stage(&target.version("new"), origin()).unwrap();
    let error = generations.publish(new.id(), &[&old]).unwrap_err();
    assert!(error.may_have_happened && error.source.exit_code() == 77, "{error}");
    let first_line =
        |name| std::fs::read_to_string(target.live().join(name)).unwrap().lines().next().unwrap().to_owned();
    assert_eq!((first_line("a"), first_line("b")), ("new".to_owned(), "old".to_owned()));
    let back = generations.publish(old.id, &[&new.manifest]).unwrap_err();
    assert_eq!(first_line("a"), "old", "going back gets as far as it can: {back}");
    assert!(target.names().iter().all(|name| !name.starts_with('.')), "no temporary file stays: {:?}", target.names());
    eprintln!("cut short as it should be");
}

#[test]
fn a_publish_that_is_cut_short_says_that_it_may_have_happened() {
    if !is_root() {
        return skip("a file of another user in a sticky folder needs root");
    }
    let (_dir, target, exe) = as_nobody("plain");
    std::fs::set_permissions(target.live(), std::fs::Permissions::from_mode(0o1777)).unwrap();
    std::os::unix::fs::chown(target.live(), Some(0), None).unwrap();
    std::os::unix::fs::chown(target.live().join("b"), Some(0), Some(0)).unwrap();
    let done = child_command(&exe, &target, "sticky").uid(NOBODY).gid(NOBODY).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("cut short as it should be"), "{said}");
}

/// A target whose `old` is live, all of it nobody's (or, for a plain user, our own), and a binary that nobody may run.
fn as_nobody(kind: &str) -> (tempfile::TempDir, Target, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let exe = dir.path().join("test");
    // By a process of its own: what another test forks meanwhile would keep our copy open for writing, and so from being run.
    let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&exe).status().unwrap();
    assert!(copied.success());
    std::fs::set_permissions(&exe, std::fs::Permissions::from_mode(0o755)).unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir(&root).unwrap();
    let target = Target::new(&root, kind);
    let mut own = target.version("old");
    if is_root() {
        own.files.iter_mut().for_each(|file| (file.uid, file.gid) = (Some(NOBODY), Some(NOBODY)));
    }
    let generations = target.generations();
    let staged = generations.stage(&own, origin()).unwrap();
    generations.publish(staged.id(), &[]).unwrap();
    if is_root() {
        let given = Command::new("chown").args(["-hR", &format!("{NOBODY}:{NOBODY}")]).arg(&root).status().unwrap();
        assert!(given.success());
    }
    (dir, target, exe)
}

/// Runs as somebody who may not write into `live/`.
fn denied(target: &Target) {
    let generations = target.generations();
    let old = generations.manifest(*generations.ids().unwrap().first().unwrap()).unwrap();
    let mut rendered = target.version("new");
    let id = generations.stage(&rendered, origin()).unwrap().id();
    let error = generations.publish(id, &[&old]).unwrap_err();
    assert_eq!((error.source.kind(), error.source.exit_code()), (FileErrorKind::Denied, 77), "{error}");
    assert!(!error.may_have_happened, "{error}");
    assert_eq!(generations.live(&old), Live::Same);
    std::fs::set_permissions(target.live(), std::fs::Permissions::from_mode(0o755)).unwrap();
    rendered.files[0].uid = Some(0);
    let root_owned = generations.stage(&rendered, origin()).unwrap().id();
    let error = generations.publish(root_owned, &[&old]).unwrap_err();
    assert!(!error.may_have_happened && error.to_string().contains("CAP_CHOWN"), "{error}");
    assert_eq!(generations.live(&old), Live::Same);
    let manifest = generations.manifest(id).unwrap();
    generations.publish(id, &[&old]).unwrap();
    assert_eq!(generations.live(&manifest), Live::Same);
    eprintln!("denied as it should be");
}

#[test]
fn a_lost_permission_is_exit_77_and_recovered_from() {
    for kind in KINDS {
        let (_dir, target, exe) = as_nobody(kind);
        std::fs::set_permissions(target.live(), std::fs::Permissions::from_mode(0o555)).unwrap();
        let mut command = child_command(&exe, &target, "denied");
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        let done = command.output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success() && said.contains("denied as it should be"), "{said}");
    }
}
