//! The file store and the path watch on real files.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "the helpers of tests are tests, too")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use leasehold::config::model::Locator;
use leasehold::digest::Key;
use leasehold::pathwatch::{Pace, PathWatch};
use leasehold::secret::{Field, Reading};
use leasehold::store::file::FileStore;
use leasehold::store::{Store, StoreError, StoreErrorKind};
use tempfile::{TempDir, tempdir};

const DEADLINE: Duration = Duration::from_secs(10);

fn store(path: PathBuf) -> FileStore {
    FileStore::new("local".into(), path, Key::new(b"key"))
}

async fn read(store: &FileStore, key: &str) -> Result<Reading, StoreError> {
    store.read(&Locator::File { key: key.to_owned() }).await
}

fn field(reading: &Reading, name: &str) -> String {
    let text = reading.fields.get(name).and_then(Field::as_text).expect("a text");
    String::from_utf8(text.expose().to_vec()).expect("UTF-8")
}

/// Writes beside and renames over, as careful writers do.
fn rename_over(path: &Path, text: &str) {
    let beside = path.with_extension("beside");
    fs::write(&beside, text).unwrap();
    fs::rename(&beside, path).unwrap();
}

/// Waits for changes until a reading has this value.
async fn until(store: &FileStore, key: &str, name: &str, value: &str) -> Reading {
    let wait = async {
        loop {
            if let Ok(reading) = read(store, key).await
                && reading.fields.contains_key(name)
                && field(&reading, name) == value
            {
                return reading;
            }
            store.changed().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("never saw the value for {name}"))
}

fn may_be_skipped(what: &str) {
    eprintln!("SKIP: {what}");
    assert_ne!(std::env::var("LEASEHOLD_REQUIRE").as_deref(), Ok("all"), "required: {what}");
}

#[tokio::test]
async fn a_file_maps_names_to_fields_and_a_scalar_is_raw() {
    let dir = tempdir().unwrap();
    let yaml = dir.path().join("s.yaml");
    fs::write(&yaml, "anthropic: {api_key: sk-1, port: 5432}\nplain: just-this\nlist: [a]\nempty:\nnone: {}\n")
        .unwrap();
    let json = dir.path().join("s.json");
    fs::write(&json, r#"{"anthropic": {"api_key": "sk-1", "port": 5432}, "plain": "just-this"}"#).unwrap();
    let (yaml, json) = (store(yaml), store(json));
    for store in [&yaml, &json] {
        let reading = read(store, "anthropic").await.unwrap();
        assert_eq!((field(&reading, "api_key"), field(&reading, "port")), ("sk-1".into(), "5432".into()));
        assert_eq!(reading.created_at, None, "a file's time says nothing about one of its secrets");
        assert_eq!(field(&read(store, "plain").await.unwrap(), "raw"), "just-this");
        let missing = read(store, "nobody").await.unwrap_err();
        assert_eq!(missing.kind, StoreErrorKind::Missing);
        assert!(missing.message.starts_with("store local: /") && missing.message.contains("nobody"), "{missing}");
    }
    for key in ["list", "empty", "none"] {
        assert_eq!(read(&yaml, key).await.unwrap_err().kind, StoreErrorKind::Malformed, "{key}");
    }
    let of = |reading: Result<Reading, StoreError>| reading.unwrap().version;
    assert_eq!(of(read(&yaml, "anthropic").await), of(read(&json, "anthropic").await), "one content, one version");
    assert_ne!(of(read(&yaml, "anthropic").await), of(read(&yaml, "plain").await));
}

#[tokio::test]
async fn dotenv_and_a_folder_are_one_secret_whatever_the_key() {
    let dir = tempdir().unwrap();
    let env = dir.path().join(".env");
    fs::write(&env, "USER=me\nPASSWORD='p$w'\n").unwrap();
    let reading = read(&store(env), "any").await.unwrap();
    assert_eq!((field(&reading, "USER"), field(&reading, "PASSWORD")), ("me".into(), "p$w".into()));
    assert!(reading.created_at.is_some());

    let folder = dir.path().join("folder");
    fs::create_dir_all(folder.join("subfolder")).unwrap();
    fs::write(folder.join("password"), "with newline\n").unwrap();
    fs::write(folder.join("key.der"), [0, 255, 1]).unwrap();
    fs::write(folder.join(".hidden"), "x").unwrap();
    let reading = read(&store(folder), "any").await.unwrap();
    assert_eq!(reading.fields.keys().collect::<Vec<_>>(), ["key.der", "password"]);
    assert_eq!(field(&reading, "password"), "with newline\n");
    assert!(matches!(reading.fields.get("key.der"), Some(Field::Bytes(bytes)) if bytes.expose() == [0, 255, 1]));
}

#[tokio::test]
async fn every_fault_has_its_kind_and_place_and_never_the_content() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("s.yaml");
    let store = store(path.clone());
    let at = path.display().to_string();
    let fault = async |text: &[u8]| {
        fs::write(&path, text).unwrap();
        let error = read(&store, "a").await.unwrap_err();
        assert!(!error.message.contains("canary"), "{error}");
        (error.kind, error.message.replace(&at, "FILE"))
    };
    let malformed = StoreErrorKind::Malformed;
    assert_eq!(read(&store, "a").await.unwrap_err().kind, StoreErrorKind::Missing);
    assert_eq!(fault(b"").await, (malformed, "store local: FILE: it is empty".into()));
    assert_eq!(
        fault(b"a: canary\nb: 1\na: canary\n").await,
        (malformed, "store local: FILE:3:1: this key appears twice in one mapping".into())
    );
    let (kind, message) = fault(b"a: 1\nb: canary\xff\n").await;
    assert!(kind == malformed && message.contains("FILE:2:10: this is not UTF-8"), "{message}");
    assert_eq!(fault(b"a: {k: canary").await.0, malformed);
    let (kind, message) = fault(&vec![b'#'; 9 << 20]).await;
    assert!(kind == malformed && message.contains("at most 8388608"), "{message}");

    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = tokio::time::timeout(DEADLINE, read(&store, "a")).await.expect("a FIFO is not waited for").unwrap_err();
    assert!(error.message.contains("neither a regular file nor a folder"), "{error}");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert_eq!(read(&store, "a").await.unwrap_err().kind, StoreErrorKind::Missing, "an empty folder");
}

#[tokio::test]
async fn a_file_that_may_not_be_read_is_denied() {
    if nix::unistd::geteuid().is_root() {
        // Root reads everything; the same in a child that is nobody.
        if !denied_as_nobody() {
            may_be_skipped("a file without read permission: this test needs a user other than root");
        }
        return;
    }
    let dir = tempdir().unwrap();
    assert_denied(&dir).await;
}

async fn assert_denied(dir: &TempDir) {
    let path = dir.path().join("s.yaml");
    fs::write(&path, "a: b").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
    assert_eq!(read(&store(path), "a").await.unwrap_err().kind, StoreErrorKind::Denied);
}

/// Runs the test above as uid 65534, where this binary and a temporary folder are reachable for that user.
fn denied_as_nobody() -> bool {
    use std::os::unix::process::CommandExt;
    let Ok(exe) = std::env::current_exe() else { return false };
    let folder = tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let copy = folder.path().join("test");
    fs::copy(exe, &copy).unwrap();
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).unwrap();
    let run = std::process::Command::new(copy)
        .args(["--exact", "a_file_that_may_not_be_read_is_denied"])
        .env("TMPDIR", folder.path())
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output();
    run.is_ok_and(|output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        String::from_utf8_lossy(&output.stdout).contains("1 passed")
    })
}

#[tokio::test]
async fn changes_are_seen_through_renames_rewrites_and_deletions() {
    let dir = tempdir().unwrap();
    let folder = dir.path().join("deep/folder");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("s.yaml");
    fs::write(&path, "a: {k: '0'}").unwrap();
    let store = store(path.clone());
    until(&store, "a", "k", "0").await;
    for n in 1..6 {
        rename_over(&path, &format!("a: {{k: '{n}'}}"));
        until(&store, "a", "k", &n.to_string()).await;
    }
    // The same length, in place, right after: times may be too coarse to tell.
    for n in 6..10 {
        fs::write(&path, format!("a: {{k: '{n}'}}")).unwrap();
        until(&store, "a", "k", &n.to_string()).await;
    }
    for (n, gone) in [("10", path.clone()), ("11", folder.clone()), ("12", dir.path().join("deep"))] {
        if gone.is_dir() {
            fs::remove_dir_all(&gone).unwrap()
        } else {
            fs::remove_file(&gone).unwrap()
        }
        assert_eq!(read(&store, "a").await.unwrap_err().kind, StoreErrorKind::Missing);
        // Let the watch see that it is gone.
        tokio::time::timeout(DEADLINE, store.changed()).await.expect("a deletion is a change");
        fs::create_dir_all(&folder).unwrap();
        fs::write(&path, format!("a: {{k: '{n}'}}")).unwrap();
        until(&store, "a", "k", n).await;
    }
    // The folder is replaced by another.
    let other = dir.path().join("deep/other");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("s.yaml"), "a: {k: '13'}").unwrap();
    fs::rename(&folder, dir.path().join("deep/away")).unwrap();
    fs::rename(&other, &folder).unwrap();
    until(&store, "a", "k", "13").await;
    rename_over(&path, "a: {k: '14'}");
    until(&store, "a", "k", "14").await;
}

#[tokio::test]
async fn a_file_caught_half_written_is_malformed_until_it_is_whole() {
    use std::io::Write;
    let dir = tempdir().unwrap();
    let path = dir.path().join("s.json");
    fs::write(&path, r#"{"a": {"k": "old"}}"#).unwrap();
    let store = store(path.clone());
    until(&store, "a", "k", "old").await;
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(&path).unwrap();
    file.write_all(br#"{"a": {"k": "ne"#).unwrap();
    let error = read(&store, "a").await.unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Malformed);
    assert!(error.message.contains("half-written"), "{error}");
    file.write_all(br#"w"}}"#).unwrap();
    drop(file);
    until(&store, "a", "k", "new").await;
}

/// As many files as give a swap time to come between two of them.
const MOUNTED: usize = 60;

/// What the kubelet does: a new folder with the files (here all with the same text), a link to it, renamed over `..data`.
fn mount(volume: &Path, text: &str) {
    let data = volume.join(format!("..v{text}"));
    fs::create_dir(&data).unwrap();
    for name in (0..MOUNTED).map(|n| format!("f{n}")) {
        fs::write(data.join(&name), text).unwrap();
        let link = volume.join(&name);
        if !link.is_symlink() {
            symlink(Path::new("..data").join(&name), link).unwrap();
        }
    }
    symlink(format!("..v{text}"), volume.join("..data_tmp")).unwrap();
    let old = fs::read_link(volume.join("..data")).ok();
    fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    if let Some(old) = old {
        fs::remove_dir_all(volume.join(old)).unwrap();
    }
}

#[tokio::test]
async fn a_kubernetes_mount_is_read_as_a_whole_through_its_swaps() {
    let dir = tempdir().unwrap();
    mount(dir.path(), "100");
    let folder = Arc::new(store(dir.path().to_path_buf()));
    let watch = PathWatch::new([dir.path().join("f0")]);
    assert_eq!(read(&folder, "x").await.unwrap().fields.len(), MOUNTED);
    let reader = Arc::clone(&folder);
    let reading = tokio::spawn(async move {
        loop {
            let reading = match read(&reader, "x").await {
                Ok(reading) => reading,
                // Nothing else: a mount is never without its files.
                Err(error) if error.message.ends_with("it changes while it is read") => continue,
                Err(error) => panic!("{error}"),
            };
            let first = field(&reading, "f0");
            assert_eq!(reading.fields.len(), MOUNTED);
            assert!(reading.fields.keys().all(|name| field(&reading, name) == first), "two versions were mixed");
            if first == "200" {
                return;
            }
        }
    });
    // Beside the reader, not in turns with it.
    let volume = dir.path().to_path_buf();
    let swaps = std::thread::spawn(move || (101..=200).for_each(|n| mount(&volume, &n.to_string())));
    // A hundred swaps are some ten thousand file operations.
    tokio::time::timeout(6 * DEADLINE, reading).await.unwrap().unwrap();
    swaps.join().unwrap();
    tokio::time::timeout(DEADLINE, watch.changed()).await.expect("a watch on one file of it sees the swap");
    until(&folder, "x", "f0", "200").await;
    mount(dir.path(), "201");
    until(&folder, "x", "f1", "201").await;
}

#[tokio::test]
async fn a_thousand_secrets_of_one_file_are_parsed_once() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("s.yaml");
    let text: String = (0..1_000).map(|n| format!("s{n}: {{k: 'value {n}', l: [1, 2, 3]}}\n")).collect();
    fs::write(&path, &text).unwrap();
    let keys: Vec<Locator> = (0..1_000).map(|n| Locator::File { key: format!("s{n}") }).collect();
    let (mut one, mut all) = (Duration::MAX, Duration::MAX);
    // The best of some, each with a store that has parsed nothing yet: a busy machine makes any of them long.
    for _ in 0..3 {
        let store = store(path.clone());
        let began = Instant::now();
        read(&store, "s0").await.unwrap();
        one = one.min(began.elapsed());
        let began = Instant::now();
        let readings = futures_util::future::join_all(keys.iter().map(|key| store.read(key))).await;
        all = all.min(began.elapsed());
        assert!(readings.into_iter().all(|reading| reading.is_ok()));
    }
    assert!(all < one * 50, "one took {one:?}, a thousand took {all:?}");
}

#[tokio::test]
async fn reading_is_no_change_and_a_burst_is_one() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("s.yaml");
    fs::write(&path, "a: b").unwrap();
    let watch = PathWatch::new([path.clone(), dir.path().join("sub")]);
    let quiet = Duration::from_millis(300);
    for _ in 0..20 {
        fs::read(&path).unwrap();
        fs::write(dir.path().join("unrelated"), "x").unwrap();
    }
    assert!(tokio::time::timeout(quiet, watch.changed()).await.is_err(), "reading, or another file, is no change");
    for n in 0..20 {
        fs::write(&path, format!("a: {n}")).unwrap();
    }
    tokio::time::timeout(DEADLINE, watch.changed()).await.expect("a change");
    assert!(tokio::time::timeout(quiet, watch.changed()).await.is_err(), "a burst is one change");

    watch.set_paths([dir.path().join("unrelated")]);
    tokio::time::timeout(DEADLINE, watch.changed()).await.expect("other paths are news");
    watch.set_paths([dir.path().join("unrelated")]);
    assert!(
        watch.changed().now_or_never().is_none(),
        "the same paths are none: who sets them when told would never rest"
    );
    fs::write(&path, "a: c").unwrap();
    assert!(tokio::time::timeout(quiet, watch.changed()).await.is_err(), "no longer watched");
    fs::write(dir.path().join("unrelated"), "y").unwrap();
    tokio::time::timeout(DEADLINE, watch.changed()).await.expect("watched since");
}

#[tokio::test]
async fn links_are_followed_to_where_they_lead() {
    let dir = tempdir().unwrap();
    let (here, there) = (dir.path().join("here"), dir.path().join("there"));
    fs::create_dir_all(&here).unwrap();
    fs::create_dir_all(there.join("inner")).unwrap();
    fs::write(there.join("inner/real"), "0").unwrap();
    symlink("../there/inner", here.join("folder-link")).unwrap();
    symlink("folder-link/real", here.join("file-link")).unwrap();
    let watch = PathWatch::new([here.join("file-link")]);
    let change = async |what: &str| {
        tokio::time::timeout(DEADLINE, watch.changed()).await.unwrap_or_else(|_| panic!("not seen: {what}"));
    };
    fs::write(there.join("inner/real"), "1").unwrap();
    change("the file itself").await;
    rename_over(&there.join("inner/real"), "2");
    change("the file renamed over").await;
    fs::create_dir(dir.path().join("elsewhere")).unwrap();
    symlink("../elsewhere", here.join("new-link")).unwrap();
    fs::rename(here.join("new-link"), here.join("folder-link")).unwrap();
    change("the link to its folder, which leads nowhere now").await;
    fs::write(dir.path().join("elsewhere/real"), "3").unwrap();
    change("the file where the new link leads").await;
    fs::remove_file(here.join("file-link")).unwrap();
    change("the link itself").await;
    symlink("file-link", here.join("file-link")).unwrap();
    change("a link to itself").await;
}

#[tokio::test]
async fn without_inotify_changes_are_found_by_looking() {
    let dir = tempdir().unwrap();
    let path = dir.path().join("s.yaml");
    let pace = Pace { inotify: false, poll: Duration::from_millis(50), ..Pace::default() };
    let watch = PathWatch::with_pace([path.clone(), dir.path().to_path_buf()], pace);
    assert!(watch.is_polling());
    assert!(tokio::time::timeout(Duration::from_millis(300), watch.changed()).await.is_err());
    fs::write(&path, "a: b").unwrap();
    tokio::time::timeout(DEADLINE, watch.changed()).await.expect("found by looking");
    fs::remove_file(&path).unwrap();
    tokio::time::timeout(DEADLINE, watch.changed()).await.expect("found by looking");
    assert!(!PathWatch::new([path]).is_polling());
}
