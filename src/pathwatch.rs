//! Tells when something at given paths may have changed: inotify(7) through `notify`, through renames, symlinks and
//! folders that come and go.
//!
//! For each path the watch follows the path as the kernel would and watches the folder that holds it, the folder of each
//! symlink on the way, and where something is missing the nearest folder that exists; a path that is a folder is watched
//! with its entries and the targets of the links in it. Only events about those names count, and reading is none.
//! After every event the way is followed anew, so that a replaced folder is watched anew.
//!
//! A rename of a folder further up, and a network mount whose other clients inotify cannot see, are found by a look every
//! minute ([`Pace::sweep`]). Where inotify has no room left (`fs.inotify.max_user_watches`, `max_user_instances`) or a
//! folder may not be watched, that look comes every few seconds ([`Pace::poll`]), and a warning says so once.

mod follow;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, INotifyWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use follow::{Seen, Ways};

/// How fast a [`PathWatch`] is.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Quiet time that ends a burst of events.
    pub quiet: Duration,
    /// Bound on a burst.
    pub burst: Duration,
    /// Between looks where inotify serves.
    pub sweep: Duration,
    /// Between looks where it does not.
    pub poll: Duration,
    /// False: never use inotify.
    pub inotify: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(40),
            burst: Duration::from_millis(400),
            sweep: Duration::from_secs(60),
            poll: Duration::from_secs(5),
            inotify: true,
        }
    }
}

/// A watch on some paths, until dropped. One thread (of `notify`) and one task.
pub struct PathWatch {
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    /// From inotify's thread to the task: something happened.
    event: Notify,
    /// From the task to whoever waits in [`PathWatch::changed`].
    told: Notify,
    eyes: Mutex<Eyes>,
}

/// The folders (by their real path) and names whose events count. Shared with inotify's thread; never held over a call
/// into `notify`, which waits for that thread.
type Interests = Arc<Mutex<Ways>>;

struct Eyes {
    paths: Vec<PathBuf>,
    pace: Pace,
    interests: Interests,
    watcher: Option<INotifyWatcher>,
    /// Folder -> device and inode under watch.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    seen: Seen,
    polling: bool,
    warned: bool,
}

impl PathWatch {
    /// Watches files and folders (absolute paths), there or not. The watch stands when this returns: what changes after
    /// is told. Makes a few short system calls in place; must be called in a tokio runtime.
    pub fn new(paths: impl IntoIterator<Item = PathBuf>) -> Self {
        Self::with_pace(paths, Pace::default())
    }

    /// The same at another pace.
    pub fn with_pace(paths: impl IntoIterator<Item = PathBuf>, pace: Pace) -> Self {
        let eyes = Eyes {
            paths: paths.into_iter().collect(),
            pace,
            interests: Interests::default(),
            watcher: None,
            watched: BTreeMap::new(),
            seen: Seen::default(),
            polling: false,
            warned: false,
        };
        let shared = Arc::new(Shared { event: Notify::new(), told: Notify::new(), eyes: Mutex::new(eyes) });
        shared.look();
        let task = tokio::spawn(run(Arc::clone(&shared), pace));
        Self { shared, task }
    }

    /// Resolves when something may have changed since the last time it resolved; a burst of events counts once. It says
    /// nothing about what changed, and may be wrong that anything did. One caller at a time learns of a change.
    /// Cancel-safe.
    pub async fn changed(&self) {
        self.shared.told.notified().await;
    }

    /// Watches these paths instead. Where they are others, or hold what was not seen yet, [`PathWatch::changed`] resolves;
    /// else not: whoever reads the paths and then sets them would else be told for ever.
    pub fn set_paths(&self, paths: impl IntoIterator<Item = PathBuf>) {
        self.shared.eyes().paths = paths.into_iter().collect();
        let (news, _) = self.shared.look();
        if news {
            self.shared.told.notify_one();
        }
    }

    /// True while changes are found by looking, for want of inotify.
    pub fn is_polling(&self) -> bool {
        self.shared.eyes().polling
    }
}

impl Drop for PathWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Shared {
    fn eyes(&self) -> MutexGuard<'_, Eyes> {
        self.eyes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the paths anew; whether anything is other than at the last look, and whether looking is all there is.
    fn look(self: &Arc<Self>) -> (bool, bool) {
        let mut eyes = self.eyes();
        eyes.arm(self);
        let seen = Seen::now(&eyes.paths);
        let news = seen != eyes.seen;
        eyes.seen = seen;
        (news, eyes.polling)
    }
}

async fn run(shared: Arc<Shared>, pace: Pace) {
    let mut polling = shared.eyes().polling;
    loop {
        let pause = if polling { pace.poll } else { pace.sweep };
        let event = tokio::time::timeout(pause, shared.event.notified()).await.is_ok();
        if event {
            let quiet = async { while tokio::time::timeout(pace.quiet, shared.event.notified()).await.is_ok() {} };
            let _ended_by_the_bound = tokio::time::timeout(pace.burst, quiet).await;
        }
        let looking = Arc::clone(&shared);
        let Ok((news, blind)) = tokio::task::spawn_blocking(move || looking.look()).await else { return };
        polling = blind;
        if event || news {
            shared.told.notify_one();
        }
    }
}

impl Eyes {
    /// Watches what has to be watched now, and nothing else.
    fn arm(&mut self, shared: &Arc<Shared>) {
        let mut ways = Ways::follow(&self.paths);
        if !self.pace.inotify {
            self.polling = true;
            return;
        }
        let mut fault = self.watcher(shared).err();
        // A folder that changes between following and watching is followed again.
        for _ in 0..4 {
            *lock(&self.interests) = ways.clone();
            self.unwatch_others(&ways);
            if let Err(error) = self.watch_all(&ways) {
                fault = Some(error);
                break;
            }
            let after = Ways::follow(&self.paths);
            if after == ways {
                break;
            }
            ways = after;
        }
        self.polling = fault.is_some();
        if let Some(error) = fault {
            self.warn(&error);
        }
    }

    fn watcher(&mut self, shared: &Arc<Shared>) -> notify::Result<()> {
        if self.watcher.is_some() {
            return Ok(());
        }
        let interests = Arc::clone(&self.interests);
        let shared = Arc::downgrade(shared);
        let handler = move |event: notify::Result<Event>| {
            if event.map_or(true, |event| counts(&event, &lock(&interests)))
                && let Some(shared) = shared.upgrade()
            {
                shared.event.notify_one();
            }
        };
        self.watcher = Some(INotifyWatcher::new(handler, notify::Config::default())?);
        Ok(())
    }

    fn unwatch_others(&mut self, ways: &Ways) {
        let Some(watcher) = &mut self.watcher else { return };
        self.watched.retain(|folder, id| {
            let stays = ways.id(folder) == Some(*id);
            if !stays {
                // An error says that the watch went with its folder.
                let _gone = watcher.unwatch(folder);
            }
            stays
        });
    }

    /// Watching a folder that is watched already changes nothing, so all are watched each time: a watch may have gone
    /// with a folder that was replaced under the same inode number.
    fn watch_all(&mut self, ways: &Ways) -> notify::Result<()> {
        let Some(watcher) = &mut self.watcher else { return Ok(()) };
        for (folder, id) in ways.folders() {
            match watcher.watch(folder, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(folder.to_path_buf(), id);
                }
                Err(error) if vanished(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn warn(&mut self, error: &notify::Error) {
        if !std::mem::replace(&mut self.warned, true) {
            let first = self.paths.first().map_or(Path::new(""), PathBuf::as_path);
            tracing::warn!(
                path = %first.display(),
                "cannot watch files with inotify ({error}); looking every {} s instead (the limits are fs.inotify.max_user_watches and fs.inotify.max_user_instances)",
                self.pace.poll.as_secs()
            );
        }
    }
}

fn vanished(error: &notify::Error) -> bool {
    match &error.kind {
        notify::ErrorKind::PathNotFound => true,
        notify::ErrorKind::Io(io) => {
            matches!(io.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
        }
        _ => false,
    }
}

/// Whether an event is about a watched name. The close of a file that was open for writing counts; other accesses are
/// readers, ourselves among them.
fn counts(event: &Event, ways: &Ways) -> bool {
    let access = match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    };
    let overflow = event.need_rescan() || event.paths.is_empty();
    !access && (overflow || event.paths.iter().any(|path| ways.concerns(path)))
}

fn lock(interests: &Mutex<Ways>) -> MutexGuard<'_, Ways> {
    interests.lock().unwrap_or_else(PoisonError::into_inner)
}
