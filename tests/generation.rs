//! Generations, the state directory and what a user may rely on about published files.

// Helpers outside of #[test] functions may fail a test, too.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use leasehold::config::model::{Confirm, HttpRequest};
use leasehold::digest::Key;
use leasehold::durable::{FileError, FileErrorKind};
use leasehold::generation::{
    Difference, GenerationId, Generations, Live, Manifest, Origin, Published, differences, live_bytes,
};
use leasehold::render::{Rendered, RenderedFile};
use leasehold::seal::Seal;
use leasehold::secret::{SecretBytes, Version};
use leasehold::state_dir::StateDir;
use proptest::prelude::*;
use tempfile::TempDir;

fn seal() -> Seal {
    Seal::new(&[7; 32]).unwrap()
}

struct House {
    dir: TempDir,
    generations: Generations,
    seal: Option<Seal>,
}

impl House {
    fn new() -> Self {
        Self::sealed_with(None)
    }

    /// The same without and with a seal.
    fn both() -> [Self; 2] {
        [Self::new(), Self::sealed_with(Some(seal()))]
    }

    fn sealed_with(seal: Option<Seal>) -> Self {
        // Whatever the umask is, modes come out right: all tests here run under a strict one.
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let dir = tempfile::tempdir().unwrap();
        let generations = Generations::open(&dir.path().join("state"), &Key::new(b"test"), seal.as_ref()).unwrap();
        std::fs::create_dir(dir.path().join("live")).unwrap();
        Self { dir, generations, seal }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("live").join(name)
    }

    fn files(&self, files: &[(&str, &str, u32)]) -> Rendered {
        let file = |(name, text, mode): &(&str, &str, u32)| RenderedFile {
            path: self.path(name),
            bytes: Arc::new(SecretBytes::from(*text)),
            mode: *mode,
            uid: None,
            gid: None,
            follow_symlinks: false,
        };
        Rendered { files: files.iter().map(file).collect(), directory: None, env: Vec::new(), health: None }
    }

    fn directory(&self, files: &[(&str, &str, u32)]) -> Rendered {
        Rendered { directory: Some(self.dir.path().join("live")), ..self.files(files) }
    }

    fn go(&self, rendered: &Rendered, earlier: &[&Manifest]) -> (Manifest, Published) {
        let staged = self.generations.stage(rendered, origin()).unwrap();
        let published = self.generations.publish(staged.id(), earlier).unwrap();
        (staged.manifest, published)
    }

    fn refused(&self, rendered: &Rendered) -> String {
        let id = self.generations.stage(rendered, origin()).unwrap().id();
        let error = self.generations.publish(id, &[]).unwrap_err();
        assert!(!error.may_have_happened, "{error}");
        assert_eq!(error.source.exit_code(), 74);
        error.source.to_string()
    }

    fn names(&self) -> Vec<String> {
        names(&self.dir.path().join("live"))
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap()
    }
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn origin() -> Origin {
    Origin {
        created_at: Timestamp::UNIX_EPOCH,
        inputs: "inputs".to_owned(),
        snapshot: "snapshot".to_owned(),
        versions: BTreeMap::from([("anthropic".to_owned(), Version("7".to_owned()))]),
        previous: BTreeMap::new(),
        verified: BTreeMap::new(),
    }
}

fn request(token: &str) -> HttpRequest {
    HttpRequest {
        url: "http://127.0.0.1:4000/health".to_owned(),
        method: "GET".to_owned(),
        headers: vec![("authorization".to_owned(), format!("Bearer {token}"))],
        body: Some(token.to_owned()),
        status: vec![200],
        body_contains: None,
        json: vec![("/key".to_owned(), serde_json::json!(token))],
        ca_cert: Some(PathBuf::from("/ca.pem")),
        timeout: Duration::from_secs(5),
        confirm: None,
    }
}

/// The same, confirmed by another that carries the token, too.
fn confirmed(token: &str) -> HttpRequest {
    let confirm = Confirm { request: request(token), times: 7 };
    HttpRequest { confirm: Some(Box::new(confirm)), ..request(token) }
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_staged_generation_is_private_carries_the_files_own_names_and_no_value_in_its_manifest() {
    for house in House::both() {
        let mut rendered = house.files(&[("config.yaml", "canary-1", 0o640), ("sub/config.yaml", "canary-2", 0o644)]);
        rendered.env = vec![("KEY".to_owned(), SecretBytes::from("canary-3"))];
        rendered.health = Some(confirmed("canary-4"));
        let staged = house.generations.stage(&rendered, origin()).unwrap();
        let plain = house.generations.plain(staged.id()).unwrap();
        let paths = plain.files();
        assert_ne!(paths[0], paths[1]);
        assert_eq!(paths.len(), 2);
        for (path, text) in paths.iter().zip(["canary-1", "canary-2"]) {
            assert_eq!(path.file_name().unwrap(), "config.yaml");
            assert_eq!(std::fs::read_to_string(path).unwrap(), text);
            assert_eq!(mode(path), 0o600);
        }
        let manifest = std::fs::read(house.dir.path().join("state/000001/manifest.json")).unwrap();
        let manifest = String::from_utf8_lossy(&manifest);
        assert!(manifest.contains("anthropic") != house.seal.is_some() && !manifest.contains("canary"), "{manifest}");
        assert!(house.names().is_empty(), "staging touches no live file");
    }
}

#[test]
fn a_generation_is_the_same_only_by_what_a_process_can_take_up() {
    for house in House::both() {
        let base = house.files(&[("a", "1", 0o600), ("b", "2", 0o600)]);
        let digests = house.generations.digests(&base).unwrap();
        let same = |other: &Rendered| house.generations.digests(other).unwrap().output == digests.output;
        let mut reordered = base.clone();
        reordered.files.reverse();
        assert!(same(&reordered), "order does not matter");
        let mut named = base.clone();
        named.files[0].uid = Some(rustix::process::geteuid().as_raw());
        assert!(same(&named), "naming the agent's own user changes nothing");
        let changes: [fn(&mut Rendered); 6] = [
            |r| r.files[0].mode = 0o640,
            |r| r.files[0].uid = Some(4242),
            |r| r.files[0].bytes = Arc::new(SecretBytes::from("x")),
            |r| r.files.truncate(1),
            |r| r.env.push(("A".to_owned(), SecretBytes::from("b"))),
            |r| r.directory = Some(PathBuf::from("/elsewhere")),
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let mut other = base.clone();
            change(&mut other);
            assert!(!same(&other), "change {index}");
        }
        let mut health = base.clone();
        health.health = Some(request("t"));
        assert!(same(&health));
        assert_ne!(house.generations.digests(&health).unwrap().health, digests.health);
        let staged = house.generations.stage(&base, origin()).unwrap();
        assert!(staged.manifest.same_output(&digests));
    }
}

#[test]
fn numbers_only_grow_whatever_is_pruned_or_left_half_done() {
    for house in House::both() {
        let rendered = house.files(&[("a", "1", 0o600)]);
        let mut last = GenerationId(0);
        for keep_last in [true, false, false, true, false] {
            for _ in 0..2 {
                let id = house.generations.stage(&rendered, origin()).unwrap().id();
                assert!(id > last, "{id} after {last}");
                last = id;
            }
            let keep = if keep_last { BTreeSet::from([last]) } else { BTreeSet::new() };
            house.generations.prune(&keep).unwrap();
            assert_eq!(house.generations.ids().unwrap(), keep);
            std::fs::create_dir_all(house.dir.path().join("state/.tmp-000099-x/files")).unwrap();
            let reopened =
                Generations::open(&house.dir.path().join("state"), &Key::new(b"test"), house.seal.as_ref()).unwrap();
            assert_eq!(reopened.ids().unwrap(), keep);
        }
        assert!(names(&house.dir.path().join("state")).iter().all(|name| !name.starts_with('.')));
    }
}

fn all_files(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { all_files(&path, found) } else { found.push(path) }
    }
}

#[test]
fn a_generation_with_any_byte_changed_cut_or_gone_is_reported_and_never_published() {
    for house in House::both() {
        let mut rendered = house.files(&[("a.yaml", "one", 0o600), ("x/a.yaml", "two", 0o600)]);
        rendered.env = vec![("KEY".to_owned(), SecretBytes::from("value"))];
        rendered.health = Some(confirmed("token"));
        let id = house.generations.stage(&rendered, origin()).unwrap().id();
        let mut files = Vec::new();
        all_files(&house.dir.path().join("state/000001"), &mut files);
        assert_eq!(files.len(), 5);
        for file in files {
            let whole = std::fs::read(&file).unwrap();
            let mut flipped = whole.clone();
            let middle = flipped.len() / 2;
            flipped[middle] ^= 1;
            for broken in [Some(flipped), Some(whole[..whole.len() - 1].to_vec()), Some(Vec::new()), None] {
                match broken {
                    Some(bytes) => std::fs::write(&file, bytes).unwrap(),
                    None => std::fs::remove_file(&file).unwrap(),
                }
                let error = house.generations.publish(id, &[]).unwrap_err();
                assert!(!error.may_have_happened);
                assert!(error.to_string().contains(file.file_name().unwrap().to_str().unwrap()), "{error}");
                assert!(house.names().is_empty(), "{error}");
            }
            std::fs::write(&file, &whole).unwrap();
            assert!(house.generations.load(id).unwrap().1 == rendered);
        }
        let other_key = Generations::view(&house.dir.path().join("state"), &Key::new(b"other"), house.seal.as_ref());
        assert_eq!(other_key.load(id).map(|_| ()).unwrap_err().kind(), FileErrorKind::Corrupt);
    }
}

#[test]
fn a_sealed_generation_shows_nothing_on_disk_and_its_files_only_while_they_are_looked_at() {
    let house = House::sealed_with(Some(seal()));
    let mut rendered = house.directory(&[("a.yaml", "canary-1", 0o600), ("d/b.yaml", "canary-2", 0o600)]);
    rendered.env = vec![("KEY".to_owned(), SecretBytes::from("canary-3"))];
    rendered.health = Some(confirmed("canary-4"));
    let id = house.generations.stage(&rendered, origin()).unwrap().id();
    let mut files = Vec::new();
    all_files(&house.dir.path().join("state"), &mut files);
    assert_eq!(files.len(), 5);
    for file in &files {
        let bytes = std::fs::read(file).unwrap();
        assert!(leasehold::seal::is_sealed(&bytes), "{}", file.display());
        assert!(!bytes.windows(6).any(|window| window == b"canary"), "{}", file.display());
    }
    let plain = match house.generations.plain(id) {
        Ok(plain) => plain,
        Err(error) => {
            eprintln!("SKIP: {error}");
            assert!(std::env::var_os("LEASEHOLD_REQUIRE").is_none_or(|all| all != "all"), "{error}");
            return;
        }
    };
    let [a, b] = plain.files() else { panic!("two files") };
    assert_eq!(std::fs::read_to_string(a).unwrap(), "canary-1");
    assert_eq!(std::fs::read_to_string(b).unwrap(), "canary-2");
    assert_eq!(b, &a.parent().unwrap().join("d/b.yaml"), "beside each other as they will be");
    let folder = a.parent().unwrap().parent().unwrap().to_owned();
    assert!(leasehold::state_dir::memory_backed(&folder));
    assert_eq!((mode(&folder), mode(a.parent().unwrap()), mode(a)), (0o700, 0o700, 0o600));
    drop(plain);
    assert!(!folder.exists());

    // An agent that was killed meanwhile left it; the next one removes it, and only its own.
    let plain = house.generations.plain(id).unwrap();
    let left = plain.files()[0].parent().unwrap().parent().unwrap().to_owned();
    std::mem::forget(plain);
    drop(House::sealed_with(Some(seal())));
    assert!(left.exists());
    Generations::open(&house.dir.path().join("state"), &Key::new(b"test"), house.seal.as_ref()).unwrap();
    assert!(!left.exists());
}

#[test]
fn generations_from_before_there_was_a_key_are_read_and_sealed_ones_name_what_is_missing() {
    let house = House::new();
    let rendered = house.files(&[("a", "1", 0o600)]);
    let old = house.generations.stage(&rendered, origin()).unwrap().id();
    let view =
        |seal: Option<Seal>| Generations::view(&house.dir.path().join("state"), &Key::new(b"test"), seal.as_ref());
    let sealing = view(Some(seal()));
    assert!(sealing.load(old).unwrap().1 == rendered);
    let new = sealing.stage(&rendered, origin()).unwrap().id();
    assert_eq!(
        sealing.plain(old).unwrap().files()[0],
        house.dir.path().join("state/000001/files/a"),
        "as it always was"
    );
    assert!(sealing.load(new).unwrap().1 == rendered);
    let why = |seal| view(seal).load(new).map(|_| ()).unwrap_err().to_string();
    assert!(why(None).contains("gives no `state_key`"), "{}", why(None));
    let other = why(Seal::new(&[8; 32]));
    assert!(other.contains("another key than `state_key`") && other.contains("key of before"), "{other}");
    assert!(view(None).load(old).is_ok(), "the one in the clear needs none");

    // A blob of one generation is none of another's, a file's none of another file's.
    let third = sealing.stage(&house.files(&[("a", "1", 0o600), ("b", "1", 0o600)]), origin()).unwrap().id();
    let blob = |id: GenerationId, name: &str| house.dir.path().join(format!("state/{:06}/files/{name}", id.0));
    for from in [blob(new, "a"), blob(third, "a")] {
        let whole = std::fs::read(blob(third, "b")).unwrap();
        std::fs::copy(from, blob(third, "b")).unwrap();
        let error = sealing.load(third).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("sealed for another place"), "{error}");
        std::fs::write(blob(third, "b"), whole).unwrap();
    }
    assert!(sealing.load(third).is_ok());
}

#[test]
fn publishing_what_is_there_writes_nothing() {
    for house in House::both() {
        for rendered in [house.files(&[("a", "1", 0o640)]), house.directory(&[("d/a", "1", 0o640)])] {
            let (manifest, first) = house.go(&rendered, &[]);
            assert!(!first.changed.is_empty());
            let before = std::fs::metadata(&rendered.files[0].path).unwrap();
            let again = house.generations.publish(manifest.id, &[&manifest]).unwrap();
            assert_eq!(again, Published::default());
            let after = std::fs::metadata(&rendered.files[0].path).unwrap();
            assert_eq!((before.ino(), before.ctime_nsec()), (after.ino(), after.ctime_nsec()));
        }
    }
}

#[test]
fn a_drifted_mode_or_byte_is_seen_and_put_right() {
    for house in House::both() {
        let path = house.path("a");
        for rendered in [house.files(&[("a", "1", 0o640)]), house.directory(&[("a", "1", 0o640)])] {
            let earlier = house.generations.list().unwrap().pop().map(|(_, manifest)| manifest.unwrap());
            let (manifest, _) = house.go(&rendered, &earlier.iter().collect::<Vec<_>>());
            assert_eq!(house.generations.live(&manifest), Live::Same);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
            let drift = (path.clone(), Difference::Mode { found: 0o666, want: 0o640 });
            assert_eq!(house.generations.live(&manifest), Live::Differs(vec![drift.clone()]));
            assert_eq!(differences(&rendered), vec![drift]);
            assert_eq!(house.generations.publish(manifest.id, &[]).unwrap().changed, vec![path.clone()]);
            assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o640);
            std::fs::write(&path, "2").unwrap();
            assert_eq!(house.generations.live(&manifest), Live::Differs(vec![(path.clone(), Difference::Bytes)]));
            assert_eq!(live_bytes(&rendered, 0).unwrap().unwrap().expose(), b"2");
            house.generations.publish(manifest.id, &[]).unwrap();
            assert_eq!((house.text("a").as_str(), house.generations.live(&manifest)), ("1", Live::Same));
        }
    }
}

#[test]
fn live_says_missing_only_where_nothing_is_there() {
    let house = House::new();
    for rendered in [house.files(&[("x/a", "1", 0o600)]), house.directory(&[("b", "1", 0o600)])] {
        let staged = house.generations.stage(&rendered, origin()).unwrap();
        assert_eq!(house.generations.live(&staged.manifest), Live::Missing);
        assert!(house.names().is_empty(), "looking makes no folder");
        assert!(live_bytes(&rendered, 0).unwrap().is_none());
    }
    let nothing = house.generations.stage(&house.files(&[]), origin()).unwrap();
    assert_eq!(house.generations.live(&nothing.manifest), Live::Same);
}

#[test]
fn missing_parents_are_made_so_that_the_target_can_pass() {
    let house = House::new();
    house.go(&house.files(&[("x/y/a", "1", 0o604)]), &[]);
    assert_eq!((mode(&house.path("x")), mode(&house.path("x/y")), mode(&house.path("x/y/a"))), (0o755, 0o755, 0o604));
}

#[test]
fn going_forward_and_back_removes_only_files_that_are_still_ours() {
    for house in House::both() {
        let (one, _) =
            house.go(&house.files(&[("a", "1", 0o600), ("gone", "old", 0o600), ("mine", "old", 0o600)]), &[]);
        std::fs::write(house.path("mine"), "edited by hand").unwrap();
        let (two, published) = house.go(&house.files(&[("a", "2", 0o600), ("new", "2", 0o600)]), &[&one]);
        assert_eq!(house.names(), ["a", "mine", "new"]);
        assert_eq!(published.left, [house.path("mine")]);
        assert_eq!(published.changed, [house.path("a"), house.path("new"), house.path("gone")]);
        std::fs::remove_file(house.path("mine")).unwrap();
        house.generations.publish(one.id, &[&two]).unwrap();
        assert_eq!(house.names(), ["a", "gone", "mine"]);
        assert_eq!(house.generations.live(&one), Live::Same);
    }
}

#[test]
fn a_file_that_is_the_same_by_another_path_is_not_removed() {
    let house = House::new();
    symlink(house.path(""), house.path("link")).unwrap();
    let mut by_link = house.files(&[("link/a", "1", 0o600)]);
    by_link.files[0].follow_symlinks = true;
    let (before, _) = house.go(&by_link, &[]);
    house.go(&house.files(&[("a", "1", 0o600)]), &[&before]);
    assert_eq!(house.text("a"), "1");
}

#[test]
fn symlinks_are_refused_by_name_wherever_they_stand() {
    let house = House::new();
    std::fs::create_dir(house.path("real")).unwrap();
    std::fs::write(house.path("victim"), "untouched").unwrap();
    symlink("victim", house.path("final")).unwrap();
    symlink("nowhere", house.path("dangling")).unwrap();
    symlink("real", house.path("parent")).unwrap();
    for (name, link, target) in [
        ("final", "final", "victim"),
        ("dangling", "dangling", "nowhere"),
        ("parent/a", "parent", "real"),
        ("parent/deep/a", "parent", "real"),
    ] {
        let message = house.refused(&house.files(&[("fine", "1", 0o600), (name, "new", 0o600)]));
        let link = format!("{} is a symlink to {target}", house.path(link).display());
        assert!(message.contains(&link), "{message}");
        assert!(message.contains("follow_symlinks: true"), "{message}");
    }
    assert_eq!(house.names(), ["dangling", "final", "parent", "real", "victim"], "no sound file went through either");
    assert_eq!((house.text("victim").as_str(), names(&house.path("real")).len()), ("untouched", 0));
}

#[test]
fn a_followed_symlink_stays_and_what_it_leads_to_is_replaced() {
    let house = House::new();
    std::fs::create_dir(house.path("real")).unwrap();
    symlink("real", house.path("parent")).unwrap();
    symlink("../live/real/b", house.path("one")).unwrap();
    symlink("one", house.path("two")).unwrap();
    let mut rendered = house.files(&[("parent/a", "a", 0o600), ("two", "b", 0o640)]);
    rendered.files.iter_mut().for_each(|file| file.follow_symlinks = true);
    let (manifest, _) = house.go(&rendered, &[]);
    assert_eq!((house.text("real/a"), house.text("real/b")), ("a".to_owned(), "b".to_owned()));
    assert_eq!(house.names(), ["one", "parent", "real", "two"]);
    assert!(std::fs::symlink_metadata(house.path("two")).unwrap().is_symlink());
    assert_eq!(house.generations.live(&manifest), Live::Same);
    symlink("loop", house.path("loop")).unwrap();
    let mut looped = house.files(&[("loop", "x", 0o600)]);
    looped.files[0].follow_symlinks = true;
    assert!(house.refused(&looped).contains("Too many levels"));
}

#[test]
fn what_is_no_file_is_refused_and_left() {
    let house = House::new();
    std::fs::create_dir(house.path("dir")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, house.path("fifo"), 0o600.into()).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(house.path("socket")).unwrap();
    for (name, kind) in [("dir", "a directory"), ("fifo", "a fifo"), ("socket", "a socket")] {
        for rendered in [house.files(&[(name, "x", 0o600)]), house.directory(&[(name, "x", 0o600)])] {
            let message = house.refused(&rendered);
            assert!(message.contains(kind) && message.contains(name), "{message}");
        }
    }
    let under_a_file = house.files(&[("file", "x", 0o600)]);
    house.go(&under_a_file, &[]);
    assert!(house.refused(&house.files(&[("file/a", "x", 0o600)])).contains("Not a directory"));
    assert_eq!(house.names(), ["dir", "fifo", "file", "socket"]);
    assert!(std::fs::symlink_metadata(house.path("fifo")).unwrap().file_type().is_fifo());
}

#[test]
fn leftovers_of_a_killed_publish_are_swept_and_nothing_else() {
    let house = House::new();
    let ours = [".a.leasehold-0123456789abcdef", ".old.leasehold-0123456789abcdef"];
    let others = [".a.leasehold-short", ".b.leasehold-0123456789abcdef", "a.leasehold-0123456789abcdef", ".a.swp"];
    let (one, _) = house.go(&house.files(&[("old", "1", 0o600)]), &[]);
    for name in ours.iter().chain(&others) {
        std::fs::write(house.path(name), "x").unwrap();
    }
    house.go(&house.files(&[("a", "1", 0o600)]), &[&one]);
    let mut want: Vec<&str> = others.to_vec();
    want.push("a");
    want.sort_unstable();
    assert_eq!(house.names(), want);
}

#[test]
fn a_very_long_name_is_published_all_the_same() {
    let house = House::new();
    let name = "n".repeat(255);
    let (manifest, _) = house.go(&house.files(&[(&name, "1", 0o600)]), &[]);
    assert_eq!(house.generations.live(&manifest), Live::Same);
}

#[test]
fn a_directory_changes_in_one_rename_and_keeps_nothing_old() {
    for house in House::both() {
        let one = house.directory(&[("a.yaml", "a1", 0o640), ("conf.d/b", "b1", 0o604), ("conf.d/c", "c1", 0o600)]);
        let (first, published) = house.go(&one, &[]);
        assert_eq!(published.changed.len(), 4, "three files and the link conf.d: {published:?}");
        let generation = std::fs::read_link(house.path("..data")).unwrap();
        assert!(generation.to_str().unwrap().starts_with("..gen-000001-"));
        assert_eq!(std::fs::read_link(house.path("conf.d")).unwrap(), Path::new("..data/conf.d"));
        assert_eq!((house.text("a.yaml"), house.text("conf.d/b")), ("a1".to_owned(), "b1".to_owned()));
        for (name, want) in [("..data/a.yaml", 0o640), ("..data/conf.d/b", 0o604), ("..data/conf.d", 0o755)] {
            assert_eq!(mode(&house.path(name)), want, "{name}");
        }
        assert_eq!(mode(&house.path(generation.to_str().unwrap())), 0o755);
        let (second, published) = house.go(&house.directory(&[("a.yaml", "a2", 0o640), ("z", "z", 0o600)]), &[&first]);
        assert_eq!(house.names().len(), 4, "{:?}", house.names());
        assert!(published.changed.contains(&house.path("conf.d/b")), "{published:?}");
        assert_eq!((house.text("a.yaml"), house.text("z")), ("a2".to_owned(), "z".to_owned()));
        assert_eq!(house.generations.live(&second), Live::Same);
        assert!(matches!(house.generations.live(&first), Live::Differs(_)));
        house.generations.publish(first.id, &[&second]).unwrap();
        assert_eq!((house.generations.live(&first), house.names().len()), (Live::Same, 4));
    }
}

#[test]
fn what_somebody_puts_into_a_published_directory_is_a_difference() {
    let house = House::new();
    let (manifest, _) = house.go(&house.directory(&[("a", "1", 0o600)]), &[]);
    std::fs::write(house.path("..data/extra"), "x").unwrap();
    assert!(matches!(house.generations.live(&manifest), Live::Differs(_)));
    house.generations.publish(manifest.id, &[]).unwrap();
    assert_eq!(house.generations.live(&manifest), Live::Same);
    std::fs::remove_file(house.path("a")).unwrap();
    assert!(matches!(house.generations.live(&manifest), Live::Differs(_)));
    house.generations.publish(manifest.id, &[]).unwrap();
    assert_eq!(house.text("a"), "1");
}

#[test]
fn a_directory_that_others_use_so_is_refused() {
    let house = House::new();
    symlink("..2024_01_01", house.path("..data")).unwrap();
    assert!(house.refused(&house.directory(&[("a", "1", 0o600)])).contains("not one of Leasehold's"));
    std::fs::remove_file(house.path("..data")).unwrap();
    symlink("elsewhere", house.path("a")).unwrap();
    assert!(house.refused(&house.directory(&[("a", "1", 0o600)])).contains("Leasehold did not make"));
    assert_eq!(house.names(), ["a"]);
    let outside = Rendered { directory: Some(house.path("sub")), ..house.files(&[("a", "1", 0o600)]) };
    assert!(house.generations.stage(&outside, origin()).unwrap_err().to_string().contains("not inside"));
    let reserved = house.directory(&[("..data/a", "1", 0o600)]);
    assert!(house.generations.stage(&reserved, origin()).unwrap_err().to_string().contains("two dots"));
}

#[test]
fn a_target_may_get_a_directory_and_lose_it_again() {
    for house in House::both() {
        let (plain, _) = house.go(&house.files(&[("a", "1", 0o600), ("b", "1", 0o600)]), &[]);
        let (directory, _) = house.go(&house.directory(&[("a", "2", 0o600), ("c", "2", 0o600)]), &[&plain]);
        assert_eq!((house.text("a"), house.text("c")), ("2".to_owned(), "2".to_owned()));
        assert!(!house.path("b").exists());
        assert_eq!(house.generations.live(&directory), Live::Same);
        house.generations.publish(plain.id, &[&directory]).unwrap();
        assert_eq!(house.names(), ["a", "b"]);
        assert_eq!(house.generations.live(&plain), Live::Same);
        house.generations.publish(directory.id, &[&plain]).unwrap();
        assert_eq!(house.generations.live(&directory), Live::Same);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Any bytes, modes, names and environments come back as they were, and live after a publish, whatever was there.
    #[test]
    fn what_was_staged_is_what_is_loaded_and_published(
        rounds in proptest::collection::vec(
            (
                proptest::collection::btree_map("[a-c](/[a-c0-9]{1,2})?", (proptest::collection::vec(any::<u8>(), 0..40),
                    prop_oneof![Just(0o600u32), Just(0o640), Just(0o444), Just(0o755)]), 0..4),
                proptest::collection::vec(("[A-Z]{1,3}", proptest::collection::vec(any::<u8>(), 0..9)), 0..3),
                any::<bool>(),
            ), 1..4),
        sealed in any::<bool>(),
    ) {
        let house = House::sealed_with(sealed.then(seal));
        let mut earlier: Option<Manifest> = None;
        for (files, env, in_directory) in rounds {
            // `a` and `a/b` cannot both be: the kind of each top name is its own folder of kinds.
            let files = files.into_iter().map(|(name, (bytes, mode))| RenderedFile {
                path: house.path(&if name.contains('/') { format!("d{name}") } else { format!("f{name}") }),
                bytes: Arc::new(SecretBytes::new(bytes)),
                mode,
                uid: None,
                gid: None,
                follow_symlinks: false,
            }).collect();
            let root = if in_directory { "in" } else { "out" };
            let mut rendered = Rendered {
                files,
                directory: in_directory.then(|| house.path(root)),
                env: env.into_iter().map(|(name, value)| (name, SecretBytes::new(value))).collect(),
                health: in_directory.then(|| request("x")),
            };
            for file in &mut rendered.files {
                let name = file.path.strip_prefix(house.path("")).unwrap().to_owned();
                file.path = house.path(root).join(name);
            }
            let (manifest, _) = house.go(&rendered, earlier.as_ref().as_slice());
            prop_assert!(house.generations.load(manifest.id).unwrap().1 == rendered);
            prop_assert_eq!(house.generations.live(&manifest), Live::Same);
            prop_assert!(differences(&rendered).is_empty());
            let mut on_disk = Vec::new();
            all_files(&house.dir.path().join("live"), &mut on_disk);
            let links = on_disk.iter().filter(|path| path.components().any(|part| part.as_os_str() == "..data")).count();
            prop_assert!(on_disk.len() - links >= rendered.files.len());
            if !in_directory {
                prop_assert_eq!(on_disk.len(), rendered.files.len(), "{:?}", on_disk);
            }
            earlier = Some(manifest);
        }
    }
}

fn open(path: &Path) -> Result<StateDir, FileError> {
    StateDir::open(path, None)
}

#[test]
fn a_state_dir_is_made_private_and_keeps_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deep/state");
    assert!(StateDir::open_read_only(&path).unwrap().is_none());
    assert!(!path.exists(), "looking makes nothing");
    let state = open(&path).unwrap();
    let version = state.key().version(b"x");
    assert_eq!((mode(&path), mode(&path.join("key")), mode(&path.join("lock"))), (0o700, 0o600, 0o600));
    let target = state.make_target("litellm").unwrap();
    assert_eq!((target.clone(), mode(&target)), (path.join("targets/litellm"), 0o700));
    assert!(state.make_target("../x").is_err() && state.make_target("a/b").is_err());
    assert_eq!(StateDir::open_read_only(&path).unwrap().unwrap().key().version(b"x"), version);
    drop(state);
    assert_eq!(open(&path).unwrap().key().version(b"x"), version);
    std::fs::write(path.join("key"), "short").unwrap();
    assert!(open(&path).err().unwrap().to_string().contains("5 bytes instead of 32"));
    std::fs::remove_file(path.join("key")).unwrap();
    let gone = open(&path).err().unwrap();
    assert!(gone.to_string().contains("it is gone"), "{gone}");
}

#[test]
fn a_second_agent_is_told_who_holds_the_state_dir() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let first = open(&path).unwrap();
    let error = open(&path).err().unwrap();
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    assert!(StateDir::open_read_only(&path).unwrap().is_some(), "readers need no lock");
    drop(first);
    open(&path).unwrap();
}

#[test]
fn a_lock_that_outlives_its_killed_agent_for_a_moment_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    drop(open(&path).unwrap());
    // As a child between fork(2) and execve(2) holds it, whose agent is gone.
    let left = std::fs::File::open(path.join("lock")).unwrap();
    rustix::fs::flock(&left, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut gone = std::process::Command::new("true").spawn().unwrap();
    std::fs::write(path.join("lock"), format!("{}\n", gone.id())).unwrap();
    gone.wait().unwrap();
    let (told, hear) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| told.send(open(&path).map(drop)).unwrap());
        let early = hear.recv_timeout(std::time::Duration::from_millis(100));
        assert!(early.is_err(), "it is not free yet: {early:?}");
        drop(left);
        hear.recv_timeout(std::time::Duration::from_secs(60)).unwrap().unwrap();
    });
}

#[test]
fn a_state_dir_that_others_may_enter_is_refused_with_the_way_out() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    drop(open(&path).unwrap());
    for bits in [0o750, 0o701, 0o777] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).unwrap();
        let error = open(&path).err().unwrap();
        assert_eq!(error.exit_code(), 77);
        assert!(error.to_string().contains(&format!("chmod 700 {}", path.display())), "{error}");
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
    drop(open(&path).unwrap());
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
        let error = open(&path).err().unwrap();
        assert!(error.to_string().contains("belongs to uid 65534"), "{error}");
    } else {
        eprintln!("SKIP: a state_dir of another user needs root");
        assert_ne!(std::env::var("LEASEHOLD_REQUIRE").as_deref(), Ok("all"));
    }
}
