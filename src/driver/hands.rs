//! Carries one operation out. The hands go into an operation and come back with its answer, so there is never a second.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::OnStanding;
use super::inputs::Inputs;
use super::operation::{Answer, failpoints, name};
use super::trial::Trying;
use crate::config::model::{HttpRequest, ReloadConfig, TargetConfig};
use crate::durable::FileError;
use crate::failpoint;
use crate::generation::{GenerationId, Generations, Manifest, Origin, Plain, PublishError, Published};
use crate::journal::JournalFile;
use crate::probe;
use crate::process::Exit;
use crate::reload::{Change, GRACE, Reload, ReloadError, ReloadErrorKind, Taken};
use crate::render::Rendered;
use crate::rotation::{Effect, Event, Generation, Journal};
use crate::secret::Standing;
use crate::verify;

/// Everything that operations touch.
pub(super) struct Hands {
    pub target: Arc<TargetConfig>,
    pub generations: Generations,
    pub journal: Arc<JournalFile<Journal>>,
    /// The journal as it was last saved.
    pub saved: Journal,
    pub reload: Box<dyn Reload>,
    pub probe: probe::Context,
    /// What the newest staged generation was made from.
    pub staged: Option<(Generation, Arc<Inputs>)>,
    /// The newest inputs.
    pub newest: Option<Arc<Inputs>>,
    /// The generation that was loaded last.
    pub loaded: Option<(Generation, Arc<Rendered>)>,
    pub clock: Arc<dyn Fn() -> jiff::Timestamp + Send + Sync>,
    /// Cut short when the agent stops: a probe's wait, nothing else.
    pub stop: CancellationToken,
    pub files_only: bool,
    /// Whether this life of the agent has published a generation: before, files that were in memory may be gone.
    pub published: Arc<AtomicBool>,
    /// What the target stands on, while a process of an earlier generation drains: told once that has ended.
    pub owed: Option<Vec<Generation>>,
    /// Told what the target stands on.
    pub standing: OnStanding,
    /// How the supervised process ended while an operation watched it.
    pub last_exit: Option<Exit>,
    /// How it ended when the agent stopped in the middle of a rotation.
    pub stopped: Option<Exit>,
    /// When the process was last told, or started.
    pub told_at: Option<Instant>,
}

impl Hands {
    /// Carries out one operation. `inputs`: the newest, for Stage.
    pub async fn perform(&mut self, effect: Effect, inputs: Option<Arc<Inputs>>) -> Answer {
        let (before, after) = failpoints(name(&effect).unwrap_or_default());
        failpoint::hit(before);
        self.newest.clone_from(&inputs);
        let answer = match effect {
            Effect::Stage(_) => self.stage(inputs).await,
            Effect::Verify(generation) => self.verify(generation).await,
            Effect::Save(journal) => self.save(journal).await,
            Effect::Publish(generation) => self.publish(generation).await,
            Effect::Reload { generation, needed } => self.reload(generation, needed).await,
            Effect::Probe(generation) => self.probe(generation).await,
            Effect::Halt => self.halt().await,
            Effect::Prune { keep, using } => {
                let pruned = self.prune(&keep).await;
                self.owed = Some(using);
                if self.reload.drained().is_none() {
                    self.tell_owed().await;
                }
                pruned
            }
            Effect::Wait { .. } | Effect::Report(_) | Effect::Stopped => Answer::of(Event::Done),
        };
        failpoint::hit(after);
        answer
    }

    async fn stage(&mut self, inputs: Option<Arc<Inputs>>) -> Answer {
        let Some(inputs) = inputs else { return Answer::for_now("no secret was read yet") };
        let committed = self.saved.committed.map(|c| GenerationId(c.generation));
        let (generations, made_from, now) = (self.generations.clone(), Arc::clone(&inputs), (self.clock)());
        let staged = blocking(move || stage(&generations, &made_from, committed, now)).await;
        match staged {
            Err(refused) => refused,
            Ok(None) => Answer::of(Event::Unchanged),
            Ok(Some(id)) => {
                self.staged = Some((id.0, inputs));
                Answer::of(Event::Staged(id.0))
            }
        }
    }

    async fn verify(&mut self, generation: Generation) -> Answer {
        let inputs = match &self.staged {
            Some((staged, inputs)) if *staged == generation => Arc::clone(inputs),
            _ => return Answer::for_now(format!("generation {generation} was staged by another life of the agent")),
        };
        let plain = match self.plain(generation).await {
            Ok(plain) => plain,
            Err(error) => return Answer::for_now(error),
        };
        let passed = self.passed().await;
        let paths = plain.as_ref().map_or(&[][..], Plain::files);
        let (target, inherit) = (&self.target, &self.probe.inherit);
        match verify::verify(&inputs.renderer, &inputs.snapshot, paths, target, inherit, &passed).await {
            Ok(()) => Answer::of(Event::Done),
            Err(error) if error.for_good => Answer::for_good(error.message),
            Err(error) => Answer::for_now(error.message),
        }
    }

    /// The `verify` requests that let the committed generation pass.
    async fn passed(&mut self) -> BTreeMap<String, String> {
        let Some(committed) = self.saved.committed else { return BTreeMap::new() };
        let generations = self.generations.clone();
        let manifest = blocking(move || generations.manifest(GenerationId(committed.generation))).await;
        manifest.map(|manifest| manifest.origin.verified).unwrap_or_default()
    }

    /// The files for `check` commands, where there are any.
    async fn plain(&mut self, generation: Generation) -> Result<Option<Plain>, FileError> {
        if self.target.files.iter().all(|file| file.check.is_none()) {
            return Ok(None);
        }
        let generations = self.generations.clone();
        blocking(move || generations.plain(GenerationId(generation))).await.map(Some)
    }

    async fn save(&mut self, journal: Journal) -> Answer {
        let (file, document) = (Arc::clone(&self.journal), journal.clone());
        match blocking(move || file.store(&document)).await {
            Ok(()) => {
                let (keep, using) = (journal.keep(), journal.using());
                let closed = journal.intent.is_none();
                self.saved = journal;
                if let (true, Some(committed)) = (closed, self.saved.committed) {
                    self.reload.settle(committed.generation);
                }
                if self.files_only && closed {
                    // Without a process nothing is ever proven, so the machine never prunes; the files may go all the same.
                    self.prune(&keep).await;
                    self.tell_standing(using).await;
                }
                Answer::of(Event::Done)
            }
            Err(error) => Answer::for_now(error),
        }
    }

    async fn publish(&mut self, generation: Generation) -> Answer {
        let rendered = match self.load(generation).await {
            Ok(rendered) => rendered,
            Err(refused) => return refused,
        };
        let earlier = self.earlier(generation);
        let generations = self.generations.clone();
        let published = blocking(move || publish(&generations, generation, &rendered, &earlier)).await;
        match published {
            Ok(published) => {
                self.published.store(true, Ordering::Relaxed);
                for path in &published.left {
                    tracing::warn!(path = %path.display(), "not removed: somebody else has changed it since");
                }
                Answer::of(Event::Published { changed: !published.changed.is_empty() })
            }
            Err(error) => Answer::for_now(error),
        }
    }

    /// The generations whose files may be live now.
    fn earlier(&self, generation: Generation) -> Vec<GenerationId> {
        let named = self.saved.committed.into_iter().chain(self.saved.refuge).map(|c| c.generation);
        let named = named.chain(self.saved.intent.map(|i| i.generation));
        named.filter(|g| *g != generation).map(GenerationId).collect()
    }

    async fn load(&mut self, generation: Generation) -> Result<Arc<Rendered>, Answer> {
        if let Some((loaded, rendered)) = &self.loaded
            && *loaded == generation
        {
            return Ok(Arc::clone(rendered));
        }
        let (generations, inputs) = (self.generations.clone(), self.newest.clone());
        let loaded = blocking(move || load(&generations, GenerationId(generation), inputs.as_deref())).await;
        let rendered = Arc::new(loaded.map_err(Answer::for_now)?);
        self.loaded = Some((generation, Arc::clone(&rendered)));
        Ok(rendered)
    }

    async fn reload(&mut self, generation: Generation, needed: bool) -> Answer {
        if self.files_only {
            return Answer::of(Event::NotRunning);
        }
        let rendered = match self.load(generation).await {
            Ok(rendered) => rendered,
            Err(refused) => return refused,
        };
        let supervised = matches!(self.target.reload, ReloadConfig::Exec(_));
        let taken = if needed || supervised {
            self.told_at = Some(Instant::now());
            // Of one that this one follows.
            self.last_exit = None;
            self.reload.apply(Change { generation, env: &rendered.env, files_changed: needed }).await
        } else {
            self.reload.running().await.map(|there| if there { Taken::Done } else { Taken::NotRunning })
        };
        match taken {
            Ok(Taken::Done) => Answer::of(Event::Done),
            Ok(Taken::NotRunning) if self.target.require_running => {
                Answer::for_good("the process is not running, and `require_running` is set: start it")
            }
            Ok(Taken::NotRunning) => Answer::of(Event::NotRunning),
            Err(error) => {
                let message = self.tellable(generation, &error);
                match error.kind {
                    ReloadErrorKind::Failed | ReloadErrorKind::TimedOut => Answer::for_good(message),
                    ReloadErrorKind::Denied | ReloadErrorKind::Absent => Answer::for_now(message),
                }
            }
        }
    }

    /// What may be told of a failed reload. Of an earlier generation (of another life even) the mask may not know the
    /// values any more, so a command that was given them is not quoted.
    fn tellable(&self, generation: Generation, error: &ReloadError) -> String {
        let known = self.staged.as_ref().is_some_and(|(staged, _)| *staged == generation);
        match &error.unquoted {
            Some(unquoted) if !known => {
                format!("{unquoted} (what it said is not shown: it may hold values of generation {generation})")
            }
            _ => error.message.clone(),
        }
    }

    async fn probe(&mut self, generation: Generation) -> Answer {
        let rendered = match self.load(generation).await {
            Ok(rendered) => rendered,
            Err(refused) => return refused,
        };
        let supervised = matches!(self.target.reload, ReloadConfig::Exec(_));
        let request = rendered.health.clone().map(|request| privately(request, self.reload.private()));
        let trying = Trying {
            health: &self.target.health,
            request: request.as_ref(),
            not_before: self.told_at.filter(|_| supervised).map(|at| at + GRACE),
            context: &self.probe,
        };
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Answer::for_now("the agent is stopping"),
            exit = self.reload.died() => {
                // Where another serves beside it, the target has not ended.
                let serves = self.reload.running().await.unwrap_or(false);
                self.last_exit = Some(exit).filter(|_| !serves);
                Answer::for_good(format!("the process ended ({}) before it was healthy", exit))
            }
            outcome = trying.decide() => match outcome {
                Ok(()) => Answer::of(Event::Done),
                Err(reason) => Answer::for_good(reason),
            },
        }
    }

    async fn halt(&mut self) -> Answer {
        match self.reload.halt().await {
            Ok(exit) => {
                self.last_exit = exit.or(self.last_exit);
                self.stopped = exit.filter(|_| self.stop.is_cancelled());
                Answer::of(Event::Done)
            }
            Err(error) => Answer::for_now(error),
        }
    }

    /// Tells the generations whose leases must live, where that was put off: a process that drains uses those of its own.
    pub async fn tell_owed(&mut self) {
        if let Some(using) = self.owed.clone() {
            self.tell_standing(using).await;
            self.owed = None;
        }
    }

    /// Tells what leases the target stands on: those of these generations, and of the newest inputs.
    async fn tell_standing(&mut self, using: Vec<Generation>) {
        let generations = self.generations.clone();
        let (committed, newest) = (self.saved.committed, self.newest.as_ref());
        // Made from earlier readings, but the same as what the newest give: those are what it stands on.
        let same = committed.filter(|c| newest.is_some_and(|newest| newest.digest == c.digest)).map(|c| c.generation);
        let using = using.into_iter().filter(move |generation| Some(*generation) != same);
        let using = blocking(move || generations.readings(using.map(GenerationId))).await;
        match using {
            Ok(using) => {
                let mut standing = Standing { using, ..Standing::default() };
                if let Some(newest) = &self.newest {
                    standing.newest = newest.snapshot.readings();
                    if same.is_some() {
                        standing.using.extend(standing.newest.iter().cloned());
                    }
                    standing.rejected = self.saved.is_quarantined(newest.digest);
                }
                (self.standing)(Arc::clone(&self.target.name), standing).await;
            }
            Err(error) => tracing::warn!(
                target_name = %self.target.name, "{error}; what leases it uses is not known, and none is revoked"
            ),
        }
    }

    async fn prune(&mut self, keep: &[Generation]) -> Answer {
        let keep: BTreeSet<_> = keep.iter().copied().map(GenerationId).collect();
        let generations = self.generations.clone();
        match blocking(move || generations.prune(&keep)).await {
            Ok(_) => Answer::of(Event::Done),
            Err(error) => Answer::for_now(error),
        }
    }
}

/// A request that names a path alone is asked of the newest process alone.
fn privately(mut request: HttpRequest, socket: Option<PathBuf>) -> HttpRequest {
    let Some(socket) = socket else { return request };
    let confirm = request.confirm.as_mut().map(|confirm| &mut confirm.request.url);
    for url in [Some(&mut request.url), confirm].into_iter().flatten() {
        if url.starts_with('/') {
            *url = format!("unix:{}:{url}", socket.display());
        }
    }
    request
}

/// None: the committed generation is the same, health request included.
fn stage(
    generations: &Generations,
    inputs: &Inputs,
    committed: Option<GenerationId>,
    now: jiff::Timestamp,
) -> Result<Option<GenerationId>, Answer> {
    let rendered = inputs.renderer.render(&inputs.snapshot).map_err(Answer::for_good)?;
    let digests = generations.digests(&rendered).map_err(Answer::for_now)?;
    let same = |manifest: Manifest| manifest.digests == digests;
    if committed.is_some_and(|id| generations.manifest(id).is_ok_and(same)) {
        return Ok(None);
    }
    let origin = Origin {
        created_at: now,
        inputs: inputs.digest.to_string(),
        snapshot: inputs.renderer.snapshot_digest(&inputs.snapshot),
        versions: inputs.versions(),
        previous: inputs.previous(),
        verified: inputs.renderer.verify_digests(&inputs.snapshot),
    };
    generations.stage(&rendered, origin).map(|staged| Some(staged.id())).map_err(Answer::for_now)
}

/// A retained generation; one that is spoilt is made anew, if the newest inputs give exactly what its manifest seals.
fn load(generations: &Generations, id: GenerationId, inputs: Option<&Inputs>) -> Result<Rendered, FileError> {
    let error = match generations.load(id) {
        Ok((_, rendered)) => return Ok(rendered),
        Err(error) => error,
    };
    let rendered = inputs.and_then(|inputs| inputs.renderer.render(&inputs.snapshot).ok());
    match (rendered, generations.manifest(id)) {
        (Some(rendered), Ok(manifest)) if generations.digests(&rendered)? == manifest.digests => {
            tracing::warn!(generation = id.0, "{error}; it is the same as what the secrets give now, and is made anew");
            Ok(rendered)
        }
        _ => Err(error),
    }
}

fn publish(
    generations: &Generations,
    generation: Generation,
    rendered: &Rendered,
    earlier: &[GenerationId],
) -> Result<Published, PublishError> {
    let manifests: Vec<Manifest> = earlier.iter().filter_map(|id| generations.manifest(*id).ok()).collect();
    let manifests: Vec<&Manifest> = manifests.iter().collect();
    generations.publish_rendered(GenerationId(generation), rendered, &manifests)
}

/// Runs file work where blocking is allowed.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// The error of a journal that cannot be read is the driver's to tell before it begins.
pub(super) fn load_journal(file: &JournalFile<Journal>) -> Result<Journal, FileError> {
    Ok(file.load()?.unwrap_or_default())
}
