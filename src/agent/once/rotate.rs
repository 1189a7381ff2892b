//! One target's files, through the rotation machine: its rules, crash recovery included, hold here as they do in a
//! running agent. Every reload is answered with "not running": no process is told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::report::{Change, Outcome, TargetReport};
use crate::agent::prepare::placed;
use crate::agent::problem::{Class, Problem};
use crate::config::Loaded;
use crate::config::model::{ReloadConfig, TargetConfig};
use crate::durable::FileError;
use crate::generation::{GenerationId, Generations, Manifest, Origin, Plain, Staged};
use crate::journal::JournalFile;
use crate::process::Inherit;
use crate::render::{Rendered, Renderer};
use crate::rotation::{self, Committed, Digest, Effect, Event, Failure, Generation, Journal, Phase, Policy, State};
use crate::secret::{Snapshot, Standing};
use crate::state_dir::StateDir;
use crate::telemetry::mask::mask;
use crate::verify::{self, VerifyErrorKind};

/// Between attempts to reach a provider within the wait.
const PAUSE: Duration = Duration::from_millis(500);

/// What one target is rendered from.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub target: &'a Arc<TargetConfig>,
    pub renderer: &'a Arc<Renderer>,
    pub snapshot: &'a Snapshot,
    /// Until when an unreachable provider is asked again.
    pub until: Option<Instant>,
}

/// What came of it.
pub(super) struct Rotated {
    pub report: TargetReport,
    pub problems: Vec<Problem>,
    /// What the target stands on. None: what it may stand on is not settled.
    pub standing: Option<Standing>,
}

/// Brings one target's files to these inputs, or leaves them as the committed generation has them.
pub(super) async fn rotate(loaded: &Loaded, state: &StateDir, inputs: Inputs<'_>) -> Rotated {
    let mut report = TargetReport {
        target: inputs.target.name.clone(),
        result: Outcome::Failed,
        generation: None,
        changes: Vec::new(),
        notes: Vec::new(),
    };
    let opened = match Rotation::open(loaded, state, inputs).await {
        Ok(opened) => opened,
        Err(error) => {
            let problems = vec![problem(loaded, inputs.target, Class::of_file(&error), &error)];
            return Rotated { report, problems, standing: None };
        }
    };
    let (rotation, machine) = opened.run().await;
    report.result = rotation.outcome(&machine);
    report.generation = machine.journal.committed.map(|c| c.generation);
    report.changes = rotation.changes();
    let settled = machine.phase == Phase::Rest && !machine.unsaved;
    let standing = if settled { rotation.standing(&machine) } else { None };
    report.notes = rotation.notes;
    let why = rotation.problem.filter(|_| report.result == Outcome::Failed);
    let why = match (report.result, why) {
        (Outcome::Failed, None) => Some(unexplained(loaded, inputs.target, &machine, rotation.digest)),
        (_, why) => why,
    };
    Rotated { report, problems: why.into_iter().collect(), standing }
}

fn problem(loaded: &Loaded, target: &TargetConfig, class: Class, why: &dyn std::fmt::Display) -> Problem {
    let why = why.to_string();
    let message = format!("target {}: {}", target.name, mask(&why));
    Problem { class, fault: loaded.fault(&format!("targets.{}", target.name), message, None) }
}

fn unexplained(loaded: &Loaded, target: &TargetConfig, machine: &State, digest: Digest) -> Problem {
    if machine.journal.is_quarantined(digest) {
        let why = format!(
            "these inputs were refused before and are quarantined: change a secret or the config, or `agent release {}`",
            target.name
        );
        return problem(loaded, target, Class::Template, &why);
    }
    problem(loaded, target, Class::Io, &"its files could not be brought to the newest inputs; try again")
}

struct Rotation<'a> {
    loaded: &'a Loaded,
    inputs: Inputs<'a>,
    digest: Digest,
    journal: Arc<JournalFile<Journal>>,
    generations: Generations,
    /// The journal as it was found.
    found: Journal,
    /// What is committed now.
    committed: Option<Committed>,
    /// Generations whose files may be live.
    live: BTreeSet<Generation>,
    staged: Option<GenerationId>,
    written: BTreeSet<PathBuf>,
    created: BTreeSet<PathBuf>,
    notes: Vec<String>,
    /// Why the last operation that failed did.
    problem: Option<Problem>,
}

impl<'a> Rotation<'a> {
    async fn open(loaded: &'a Loaded, state: &StateDir, inputs: Inputs<'a>) -> Result<Self, FileError> {
        let dir = state.make_target(&inputs.target.name)?;
        let seal = state.seal(&inputs.target.name);
        let journal = Arc::new(JournalFile::<Journal>::new(&dir, seal.clone()));
        let (folder, key) = (state.generations(&inputs.target.name), state.key().clone());
        let file = Arc::clone(&journal);
        let (found, generations) = blocking(move || {
            let found = file.load()?.unwrap_or_default();
            Ok::<_, FileError>((found, Generations::open(&folder, &key, seal.as_ref())?))
        })
        .await?;
        let named = found.committed.into_iter().chain(found.refuge).map(|c| c.generation);
        let live = named.chain(found.intent.map(|i| i.generation)).collect();
        let text = inputs.renderer.inputs_digest(inputs.snapshot);
        // As the driver makes it, so that `agent run` knows these inputs again.
        let digest = Digest(u64::from_str_radix(text.get(..16).unwrap_or(&text), 16).unwrap_or_default());
        Ok(Self {
            loaded,
            inputs,
            digest,
            journal,
            generations,
            committed: found.committed,
            found,
            live,
            staged: None,
            written: BTreeSet::new(),
            created: BTreeSet::new(),
            notes: Vec::new(),
            problem: None,
        })
    }

    /// Recovers, tells the machine the newest inputs, and stops where it would rest or wait.
    async fn run(mut self) -> (Self, State) {
        let target = self.inputs.target;
        let policy = Policy {
            on_unhealthy: target.on_unhealthy,
            keep: target.keep,
            supervised: matches!(target.reload, ReloadConfig::Exec(_)),
        };
        let (mut state, mut effects) = rotation::recover(self.found.clone(), policy, false);
        let mut told = false;
        loop {
            let mut answer = None;
            for effect in effects {
                if !matches!(effect, Effect::Report(_) | Effect::Wait { .. } | Effect::Stopped) {
                    answer = Some(self.perform(effect).await);
                }
            }
            let event = match answer {
                Some(event) => event,
                None if !told => {
                    told = true;
                    self.problem = None;
                    Event::Snapshot(self.digest)
                }
                None => break,
            };
            (state, effects) = rotation::step(state, event);
        }
        self.tidy(&state).await;
        (self, state)
    }

    async fn perform(&mut self, effect: Effect) -> Event {
        match effect {
            Effect::Stage(_) => self.stage().await,
            Effect::Verify(_) => self.verify().await,
            Effect::Save(journal) => {
                let (file, committed) = (Arc::clone(&self.journal), journal.committed);
                let stored = blocking(move || file.store(&journal)).await;
                if stored.is_ok() {
                    self.committed = committed;
                }
                self.answer(stored.map(|()| Event::Done))
            }
            Effect::Publish(generation) => self.publish(generation).await,
            // A process that was seen healthy on these very bytes needs no telling; any other is not told.
            Effect::Reload { generation, needed } => {
                let proven = self.found.committed.is_some_and(|c| c.generation == generation && c.proven);
                if proven && !needed { Event::Done } else { Event::NotRunning }
            }
            Effect::Prune { keep, using: _ } => self.prune(keep).await,
            Effect::Probe(_) | Effect::Halt | Effect::Wait { .. } | Effect::Report(_) | Effect::Stopped => Event::Done,
        }
    }

    /// Never for good: who runs this again asks for another try.
    fn fail(&mut self, problem: Problem) -> Event {
        self.problem = Some(problem);
        Event::Failed(Failure::ForNow)
    }

    fn answer(&mut self, answer: Result<Event, FileError>) -> Event {
        match answer {
            Ok(event) => event,
            Err(error) => self.fail(problem(self.loaded, self.inputs.target, Class::of_file(&error), &error)),
        }
    }

    async fn stage(&mut self) -> Event {
        let Inputs { renderer, snapshot, .. } = self.inputs;
        let rendered = match renderer.render(snapshot) {
            Ok(rendered) => rendered,
            Err(error) => {
                let mut fault = placed(self.loaded, &error);
                fault.message = mask(&fault.message).into_owned();
                return self.fail(Problem { class: Class::of_render(&error), fault });
            }
        };
        let versions = renderer.used_secrets().iter();
        let origin = Origin {
            created_at: Timestamp::now(),
            inputs: self.digest.to_string(),
            snapshot: renderer.snapshot_digest(snapshot),
            versions: versions
                .filter_map(|name| Some((name.to_string(), snapshot.secrets.get(name)?.version.clone())))
                .collect(),
            previous: snapshot.previous.iter().map(|(name, r)| (name.to_string(), r.version.clone())).collect(),
            verified: renderer.verify_digests(snapshot),
        };
        let committed = self.committed.map(|c| GenerationId(c.generation));
        let generations = self.generations.clone();
        match blocking(move || stage(&generations, &rendered, origin, committed)).await {
            Ok(Some(staged)) => {
                let id = staged.id();
                self.staged = Some(id);
                Event::Staged(id.0)
            }
            Ok(None) => Event::Unchanged,
            Err(error) => self.answer(Err(error)),
        }
    }

    async fn verify(&mut self) -> Event {
        let Inputs { target, renderer, snapshot, until } = self.inputs;
        let plain = match self.plain().await {
            Ok(plain) => plain,
            Err(error) => return self.answer(Err(error)),
        };
        let paths = plain.as_ref().map_or(&[][..], Plain::files);
        let withhold = self.loaded.confidential.auth_variables.clone();
        let inherit = Inherit { withhold, pass: target.pass_env.clone() };
        let passed = self.passed().await;
        loop {
            let error = match verify::verify(renderer, snapshot, paths, target, &inherit, &passed).await {
                Ok(()) => return Event::Done,
                Err(error) => error,
            };
            let again = until.is_some_and(|until| Instant::now() + PAUSE < until);
            if error.kind == VerifyErrorKind::Unreachable && again {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            return self.fail(problem(self.loaded, target, Class::of_verify(&error), &error));
        }
    }

    /// The `verify` requests that let the committed generation pass.
    async fn passed(&self) -> BTreeMap<String, String> {
        let Some(committed) = self.committed else { return BTreeMap::new() };
        let generations = self.generations.clone();
        let manifest = blocking(move || generations.manifest(GenerationId(committed.generation))).await;
        manifest.map(|manifest| manifest.origin.verified).unwrap_or_default()
    }

    /// The staged files for `check` commands, where there are any.
    async fn plain(&self) -> Result<Option<Plain>, FileError> {
        let checked = self.inputs.target.files.iter().any(|file| file.check.is_some());
        let Some(staged) = self.staged.filter(|_| checked) else { return Ok(None) };
        let generations = self.generations.clone();
        blocking(move || generations.plain(staged)).await.map(Some)
    }

    async fn publish(&mut self, generation: Generation) -> Event {
        let earlier: Vec<GenerationId> =
            self.live.iter().filter(|id| **id != generation).copied().map(GenerationId).collect();
        self.live.insert(generation);
        let generations = self.generations.clone();
        let published = blocking(move || {
            let manifests: Vec<Manifest> = earlier.iter().filter_map(|id| generations.manifest(*id).ok()).collect();
            let there: BTreeSet<PathBuf> = match generations.manifest(GenerationId(generation)) {
                Ok(manifest) => manifest.files.into_iter().map(|f| f.path).filter(|p| p.exists()).collect(),
                Err(_) => BTreeSet::new(),
            };
            let published = generations.publish(GenerationId(generation), &manifests.iter().collect::<Vec<_>>())?;
            Ok::<_, crate::generation::PublishError>((published, there))
        })
        .await;
        match published {
            Ok((published, there)) => {
                for path in &published.left {
                    self.notes.push(format!("{}: not removed, somebody else has changed it since", path.display()));
                }
                let changed = !published.changed.is_empty();
                self.created.extend(published.changed.iter().filter(|path| !there.contains(*path)).cloned());
                self.written.extend(published.changed);
                Event::Published { changed }
            }
            Err(error) => {
                let class = Class::of_file(&error.source);
                self.fail(problem(self.loaded, self.inputs.target, class, &error))
            }
        }
    }

    async fn prune(&mut self, keep: Vec<Generation>) -> Event {
        let keep = keep.into_iter().map(GenerationId).collect();
        let generations = self.generations.clone();
        let pruned = blocking(move || generations.prune(&keep)).await;
        self.answer(pruned.map(|_| Event::Done))
    }

    /// Removes what was staged and came to nothing, and what the journal no longer names. The machine itself prunes only
    /// after a proof, of which there is none here: runs out of cron would fill the disk.
    async fn tidy(&mut self, state: &State) {
        let journal = &state.journal;
        if state.unsaved {
            return;
        }
        let named = journal.committed.into_iter().chain(journal.refuge).map(|c| c.generation);
        let named = named.chain(journal.intent.map(|i| i.generation)).chain(journal.retained.iter().copied());
        let keep: BTreeSet<GenerationId> = named.map(GenerationId).collect();
        let generations = self.generations.clone();
        if let Err(error) = blocking(move || generations.prune(&keep)).await {
            self.notes.push(format!("old generations stay: {error}"));
        }
    }

    fn standing(&self, state: &State) -> Option<Standing> {
        let newest = self.inputs.snapshot.readings();
        // Made from earlier readings, but the same as what the newest give: those are what it stands on.
        let same = state.journal.committed.filter(|c| c.digest == self.digest).map(|c| c.generation);
        let using = state.journal.using().into_iter().filter(|generation| Some(*generation) != same).map(GenerationId);
        let mut using = self.generations.readings(using).ok()?;
        if same.is_some() {
            using.extend(newest.iter().cloned());
        }
        Some(Standing { using, newest, rejected: state.journal.is_quarantined(self.digest) })
    }

    fn outcome(&self, state: &State) -> Outcome {
        let journal = &state.journal;
        let at_rest = state.phase == Phase::Rest && !state.unsaved && journal.intent.is_none();
        match journal.committed {
            Some(committed) if at_rest && committed.digest == self.digest => Outcome::Rendered,
            _ if at_rest && journal.held => Outcome::Held,
            _ => Outcome::Failed,
        }
    }

    fn changes(&self) -> Vec<Change> {
        let what = |path: &PathBuf| match (path.exists(), self.created.contains(path)) {
            (false, _) => "removed",
            (true, true) => "created",
            (true, false) => "written",
        };
        let change = |path: &PathBuf| Change { path: path.clone(), what: what(path).to_owned(), lines: Vec::new() };
        self.written.iter().map(change).collect()
    }
}

/// None: the committed generation is the same already.
fn stage(
    generations: &Generations,
    rendered: &Rendered,
    origin: Origin,
    committed: Option<GenerationId>,
) -> Result<Option<Staged>, FileError> {
    let digests = generations.digests(rendered)?;
    if committed.is_some_and(|id| generations.manifest(id).is_ok_and(|manifest| manifest.digests == digests)) {
        return Ok(None);
    }
    generations.stage(rendered, origin).map(Some)
}

/// Runs file work where blocking is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}
