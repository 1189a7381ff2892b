//! From a config file to what can be run from it: the config, the templates that it names, one renderer a target.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

use super::problem::{Class, Faulty, Problem};
use crate::config::model::{Config, Source, TargetConfig, TargetName};
use crate::config::{self, Fault, Loaded, Place};
use crate::digest::Key;
use crate::durable::{self, FileError, FileErrorKind};
use crate::process::AGENT_CREDENTIALS;
use crate::render::{self, RenderError, RenderErrorKind, Renderer, Sources};
use crate::secret::{SecretBytes, SecretName};
use crate::telemetry::mask::{Masked, WHOLE_WORD, registry};
use crate::watch;

/// The largest template that is read, in bytes.
const LARGEST: u64 = 16 * 1024 * 1024;

/// A config that can be run.
pub struct Prepared {
    /// The config; its secrets include those that `resolve` files refer to.
    pub loaded: Loaded,
    /// One for each target.
    pub renderers: BTreeMap<TargetName, Arc<Renderer>>,
    /// Which secrets each target uses.
    pub uses: watch::Uses,
    /// What is doubtful but no fault, in place order.
    pub warnings: Vec<Fault>,
    /// The config file, templates with what they include, `resolve` sources; absolute. When one of them changes, all this
    /// is to be made anew.
    pub watched: Vec<PathBuf>,
    /// Keeps the values that the config and `pass_env` took from the environment masked: to be held while this is in force.
    pub masked: Vec<Masked>,
}

/// Reads a config and everything that it is made of, and compiles it. `command`: the `CMD ARG…` of `agent run -- CMD`,
/// else empty. `key` makes the digests; `env` answers environment variables (`${NAME}` and `pass_env`).
///
/// Reads files; asks no store, touches no target, writes nothing. No message holds the value of an environment variable
/// other than as a part of a path.
///
/// # Errors
/// Every fault found. Where the config itself is faulty, only the faults of the config: what its templates are is not
/// known then.
pub fn prepare(
    file: &Path,
    command: &[String],
    key: &Key,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Prepared, Faulty> {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
    let loaded =
        if command.is_empty() { config::load(file, env) } else { config::load_for_command(file, env, command) };
    let mut loaded = loaded.map_err(|faults| Faulty::of_config(faults, vec![absolute.clone()]))?;
    let masked = mask(&loaded, env);
    let mut found = Found::default();
    let read = Templates::read(&loaded, &mut found);
    declare_references(&mut loaded, &read, &mut found);
    let renderers = renderers(&loaded, &read, key, env, &mut found);
    let all_built = renderers.len() == loaded.config.targets.len();
    let mut warnings = std::mem::take(&mut loaded.warnings);
    if all_built {
        warnings.extend(cross_check(&loaded, &renderers, &mut found));
    }
    let order = order(&loaded);
    warnings.sort_by_key(|fault| order(fault));
    let watched: Vec<PathBuf> = std::iter::once(absolute).chain(read.all()).collect();
    if !found.problems.is_empty() {
        let mut problems = found.problems;
        problems.sort_by_key(|problem| order(&problem.fault));
        return Err(Faulty { problems, warnings, watched });
    }
    let uses = renderers.iter().map(|(name, r)| (name.clone(), r.used_secrets().iter().cloned().collect())).collect();
    Ok(Prepared { loaded, renderers, uses, warnings, watched, masked })
}

/// Masks what may be a credential and is no store's to tell: before any template is looked at, whose faults might quote it.
fn mask(loaded: &Loaded, env: &dyn Fn(&str) -> Option<String>) -> Vec<Masked> {
    let own = AGENT_CREDENTIALS.iter().filter_map(|name| env(name).map(Zeroizing::new));
    let passed = loaded.config.targets.values().flat_map(|target| &target.pass_env);
    let passed = passed.filter_map(|name| env(name).map(Zeroizing::new)).filter(|value| value.len() >= WHOLE_WORD);
    let environment: Vec<Zeroizing<String>> = own.chain(passed).collect();
    let config = loaded.confidential.values.iter().map(SecretBytes::expose);
    let values = config.chain(environment.iter().map(|value| value.as_bytes()));
    // A place on this machine is no secret, and its messages are of no use without it.
    let is_place = |value: &[u8]| value.starts_with(b"/") && Path::new(OsStr::from_bytes(value)).exists();
    values.filter(|value| !is_place(value)).map(|value| registry().value(value)).collect()
}

/// The config's own file first, then by path and place.
fn order(loaded: &Loaded) -> impl Fn(&Fault) -> (bool, PathBuf, u32, u32) + use<> {
    let own = Arc::clone(loaded.file());
    move |fault| (fault.file != own, fault.file.to_path_buf(), fault.line, fault.column)
}

/// Faults as they are found, each once.
#[derive(Default)]
struct Found {
    problems: Vec<Problem>,
}

impl Found {
    fn add(&mut self, class: Class, fault: Fault) {
        let problem = Problem { class, fault };
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// Whether something is said already of this place.
    fn knows(&self, fault: &Fault) -> bool {
        let same = |other: &Fault| (&other.file, other.line, other.column) == (&fault.file, fault.line, fault.column);
        fault.line > 0 && self.problems.iter().any(|problem| same(&problem.fault))
    }
}

/// Where a fault of the render room stands: in a template, or in a text of the config.
pub(super) fn placed(loaded: &Loaded, error: &RenderError) -> Fault {
    fault_at(loaded, &error.file, error.line, error.column, &error.message)
}

fn fault_at(loaded: &Loaded, file: &Arc<str>, line: usize, column: usize, message: &str) -> Fault {
    let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    if !is_label(file) {
        let place = Place { line: small(line), column: small(column) };
        return Fault::new(&Arc::from(Path::new(&**file)), place, message, None);
    }
    // A label is the path of a key; of what only the command line says, the nearest key is the place.
    let mut key: &str = file;
    let mut place = loaded.text_place(key, small(line), small(column));
    while place.line == 0 {
        let Some(end) = key.rfind('.') else { break };
        key = &key[..end];
        place = loaded.place(key);
    }
    Fault::new(loaded.file(), place, format!("{file}: {message}"), None)
}

/// The render room names a file by its absolute path, a text of the config by its key.
fn is_label(file: &str) -> bool {
    file.starts_with("targets.") || file.starts_with("secrets.")
}

/// The texts of templates, and the files that could not be read.
struct Templates {
    sources: Sources,
    unread: BTreeMap<PathBuf, (Class, String)>,
}

impl Templates {
    fn read(loaded: &Loaded, found: &mut Found) -> Self {
        let config = &loaded.config;
        let base = config.file.parent().unwrap_or(Path::new("/"));
        let mut read = Self { sources: Sources::new(base), unread: BTreeMap::new() };
        for target in config.targets.values() {
            loop {
                let missing = read.sources.missing(target);
                let new: Vec<PathBuf> = missing.into_iter().filter(|p| !read.unread.contains_key(p)).collect();
                if new.is_empty() {
                    break;
                }
                for path in new {
                    match text(&path) {
                        Ok(text) => read.sources.insert(path, text),
                        Err(why) => drop(read.unread.insert(path, why)),
                    }
                }
            }
            read.report(loaded, target, found);
        }
        read
    }

    /// What the config names itself is told at its place there; what a template includes, by the renderer.
    fn report(&self, loaded: &Loaded, target: &TargetConfig, found: &mut Found) {
        for (index, file) in target.files.iter().enumerate() {
            let (kind, path) = match &file.source {
                Source::Template(path) => ("template", path),
                Source::Resolve(path) => ("resolve", path),
                Source::Inline(_) | Source::Env(_) => continue,
            };
            if let Some((class, why)) = self.unread.get(path) {
                let key = format!("targets.{}.files[{index}].{kind}", target.name);
                let place = loaded.text_place(&key, 1, 1);
                let message = format!("{key}: {}: {why}", path.display());
                found.add(*class, Fault::new(loaded.file(), place, message, None));
            }
        }
    }

    fn all(&self) -> BTreeSet<PathBuf> {
        self.sources.paths().map(Path::to_path_buf).chain(self.unread.keys().cloned()).collect()
    }
}

/// The text of a template: a regular file, through symlinks (as Kubernetes mounts them).
fn text(path: &Path) -> Result<String, (Class, String)> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let bytes = rustix::fs::open(path, flags, Mode::empty())
        .map_err(|errno| FileError::os("read", path, errno))
        .and_then(|fd| durable::read_fd(fd, path, LARGEST));
    let bytes = bytes.map_err(|error| match error.kind() {
        FileErrorKind::Missing => (Class::Missing, "there is no such file".to_owned()),
        _ => (Class::of_file(&error), error.to_string()),
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
        (Class::Template, format!("it is not UTF-8 text (line {line})"))
    })
}

/// Declares the secrets that `resolve` files refer to.
fn declare_references(loaded: &mut Loaded, read: &Templates, found: &mut Found) {
    let stores: Vec<Arc<str>> = loaded.config.stores.keys().cloned().collect();
    let stores: Vec<&str> = stores.iter().map(|name| &**name).collect();
    for target in loaded.config.targets.values().cloned().collect::<Vec<_>>() {
        for file in &target.files {
            let Source::Resolve(path) = &file.source else { continue };
            let Some(text) = read.sources.get(path) else { continue };
            let name: Arc<str> = path.display().to_string().into();
            match render::references(&name, text, file.format, &stores) {
                Err(error) => found.add(Class::of_template(&error), placed(loaded, &error)),
                Ok(references) => {
                    for reference in references {
                        if let Err(why) = declare(&mut loaded.config, &reference) {
                            let fault = fault_at(loaded, &name, reference.line, reference.column, &why);
                            found.add(Class::Template, fault);
                        }
                    }
                }
            }
        }
    }
}

fn declare(config: &mut Config, reference: &render::Reference) -> Result<(), String> {
    let name = SecretName::new(reference.uri.as_str());
    if config.secrets.contains_key(&name) && reference.field.is_some() {
        return Ok(());
    }
    // The field is the render room's to look up; here it only has to be there.
    let whole = format!("{}{}", reference.uri, reference.field.as_ref().map_or("", |_| "#field"));
    match config::reference(config, &whole) {
        Ok(Some(mut implied)) => {
            implied.secret.name = name.clone();
            config.secrets.insert(name, implied.secret);
            Ok(())
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

fn renderers(
    loaded: &Loaded,
    read: &Templates,
    key: &Key,
    env: &dyn Fn(&str) -> Option<String>,
    found: &mut Found,
) -> BTreeMap<TargetName, Arc<Renderer>> {
    let config = &loaded.config;
    let mut renderers = BTreeMap::new();
    for (name, target) in &config.targets {
        let passed = target.pass_env.iter().filter_map(|name| Some((name.clone(), env(name)?))).collect();
        match Renderer::new(target, &config.secrets, &read.sources, key, &passed) {
            Ok(renderer) => drop(renderers.insert(name.clone(), Arc::new(renderer))),
            Err(errors) => {
                for error in errors {
                    explain(loaded, read, &error, found);
                }
            }
        }
    }
    renderers
}

fn explain(loaded: &Loaded, read: &Templates, error: &RenderError, found: &mut Found) {
    let fault = placed(loaded, error);
    match error.kind {
        // Told already, at the place in the config.
        RenderErrorKind::MissingTemplate if read.unread.contains_key(Path::new(&*error.file)) => {}
        RenderErrorKind::Undeclared if found.knows(&fault) => {}
        RenderErrorKind::MissingTemplate => {
            let why = read.unread.iter().find(|(path, _)| error.message.contains(&*path.to_string_lossy()));
            found.add(why.map_or(Class::Missing, |(_, (class, _))| *class), fault);
        }
        _ => found.add(Class::of_template(error), fault),
    }
}

/// Uses against declarations; answers the warnings.
fn cross_check(loaded: &Loaded, renderers: &BTreeMap<TargetName, Arc<Renderer>>, found: &mut Found) -> Vec<Fault> {
    let uses: Vec<(TargetName, Vec<config::Use>)> = renderers
        .iter()
        .map(|(target, renderer)| {
            let mut uses: Vec<config::Use> = Vec::new();
            for one in renderer.uses() {
                let at = fault_at(loaded, &one.file, one.line, one.column, "");
                let place = Place { line: at.line, column: at.column };
                if let Some(secret) = one.secret {
                    uses.push(config::Use { secret, file: at.file, place });
                }
            }
            // Where a template may use any secret, it uses them all.
            let file = Arc::clone(loaded.file());
            uses.extend(renderer.used_secrets().iter().map(|secret| config::Use {
                secret: secret.clone(),
                file: file.clone(),
                place: Place::default(),
            }));
            (target.clone(), uses)
        })
        .collect();
    let (faults, warnings) = config::cross_check(loaded, &uses);
    for fault in faults {
        found.add(Class::Config, fault);
    }
    warnings
}
