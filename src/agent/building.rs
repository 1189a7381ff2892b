//! Builds the agent: each part from its config, in the order in which a failure leaves nothing behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::counting::{counted, on_reading};
use super::operations::{Desk, Shared};
use super::prepare::{Prepared, prepare};
use super::problem::Class;
use super::readings::dice;
use super::running::Agent;
use super::{Failed, Options};
use crate::config::model::{Config, OnChange, ReloadConfig, TargetName};
use crate::control;
use crate::dbus::Bus;
use crate::driver::{self, Assignment, Driver};
use crate::pathwatch::PathWatch;
use crate::process::{Inherit, reap};
use crate::reload::{self, exec};
use crate::state_dir::StateDir;
use crate::telemetry::audit::{Audit, Event};
use crate::telemetry::metrics::Metrics;
use crate::watch::{self, Watch, WatchHandle};
use crate::{admin, config};

/// How long leftovers of a killed agent get where no target says.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The environment, as the config sees it.
pub(super) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub(super) async fn build(options: &Options) -> Result<Agent, Failed> {
    let file = std::path::absolute(&options.config).unwrap_or_else(|_| options.config.clone());
    let (state_dir, prepared) = open(&file, &options.command)?;
    for warning in &prepared.warnings {
        tracing::warn!("{warning}");
    }
    let config = &prepared.loaded.config;
    sweep(config, &state_dir).await?;
    let supervises = supervised(config).next().is_some() && options.reload_targets;
    if supervises || std::process::id() == 1 {
        adopt_orphans();
    }
    let clock: Clock = Arc::new(Timestamp::now);
    let (audit, writer) = audit(config);
    let metrics = Metrics::default();
    let stores = counted(watch::build(config, state_dir.key()), &watch::Stores::new(), &metrics);
    let cancel = CancellationToken::new();
    let surroundings = watch::Surroundings {
        clock: Arc::clone(&clock),
        dice: Arc::new(dice),
        on_reading: on_reading(audit.clone(), Arc::clone(&clock)),
        keeping: state_dir.keeping(),
        cancel: cancel.clone(),
    };
    let watch = Watch::spawn(config, &stores, &prepared.uses, surroundings);
    audit.record(clock(), &Event::AgentStarted { agent_version: env!("CARGO_PKG_VERSION").into() });
    let surroundings = driver::Surroundings {
        clock: Arc::clone(&clock),
        dice: Arc::new(dice),
        metrics: metrics.clone(),
        audit: audit.clone(),
        reload: reload_context(&prepared, &state_dir, options),
        standing: {
            let watch = watch.clone();
            Arc::new(move |target, standing| {
                let watch = watch.clone();
                Box::pin(async move { watch.standing(&target, standing).await })
            })
        },
        files_only: !options.reload_targets,
        ends_with_process: !options.command.is_empty(),
    };
    let drivers = drivers(&prepared, &watch, &state_dir, &surroundings)?;
    let shared = Arc::new(Shared {
        config: Mutex::new(config.clone()),
        drivers: Mutex::new(drivers),
        config_error: Mutex::new(None),
        watch: watch.clone(),
        metrics,
        audit,
        clock,
        started_at: Timestamp::now(),
        state_dir: state_dir.path().to_owned(),
        uses: Mutex::new(prepared.uses.clone()),
        announced: AtomicBool::new(false),
    });
    let servers = serve(&shared, &state_dir, &cancel).await?;
    Ok(Agent {
        masked: prepared.masked,
        templates: PathWatch::new(prepared.watched.clone()),
        config_text: std::fs::read(&file).ok().map(crate::secret::SecretBytes::new),
        file,
        command: options.command.clone(),
        shared,
        stores,
        surroundings,
        state_dir,
        cancel,
        servers,
        writer,
        overdue: std::collections::BTreeSet::new(),
    })
}

/// The state directory's key is needed to compile, and only the config says where it is.
fn open(file: &Path, command: &[String]) -> Result<(StateDir, Prepared), Failed> {
    let loaded = if command.is_empty() {
        config::load(file, &environment)
    } else {
        config::load_for_command(file, &environment, command)
    };
    let config = match loaded {
        Ok(loaded) => loaded.config,
        Err(_) => {
            let key = crate::state_dir::ephemeral_key().map_err(|e| Failed::of_file(&e))?;
            return match prepare(file, command, &key, &environment) {
                Err(faulty) => Err(refuse(&faulty)),
                Ok(_) => Err(Failed::new(Class::Config, "the config was changed while it was read: start again")),
            };
        }
    };
    let state_dir = StateDir::open(&config.state_dir, config.state_key.as_deref()).map_err(|e| Failed::of_file(&e))?;
    let prepared = prepare(file, command, state_dir.key(), &environment).map_err(|faulty| refuse(&faulty))?;
    Ok((state_dir, prepared))
}

fn refuse(faulty: &super::problem::Faulty) -> Failed {
    let class = faulty.problems.iter().map(|p| p.class).min().unwrap_or(Class::Config);
    Failed::new(class, faulty)
}

fn supervised(config: &Config) -> impl Iterator<Item = &crate::config::model::ExecReload> {
    config.targets.values().filter_map(|target| match &target.reload {
        ReloadConfig::Exec(exec) => Some(exec),
        _ => None,
    })
}

/// Ends what an agent that was killed left running, before anything is started.
async fn sweep(config: &Config, state_dir: &StateDir) -> Result<(), Failed> {
    let longest = supervised(config).map(|exec| exec.stop_timeout).max().unwrap_or(STOP_TIMEOUT);
    let timeout = |name: Option<&str>| match name.and_then(|name| config.targets.get(name)).map(|t| &t.reload) {
        Some(ReloadConfig::Exec(exec)) => exec.stop_timeout,
        _ => longest,
    };
    // Ended once a new process has taken its place.
    let serves_on = |name: &str| match config.targets.get(name).map(|target| &target.reload) {
        Some(ReloadConfig::Exec(exec)) => exec.on_change == OnChange::Handover,
        _ => false,
    };
    let swept = exec::sweep_leftovers(state_dir.path(), state_dir.key(), timeout, serves_on).await;
    for leftover in swept.map_err(|e| Failed::new(Class::Io, e))? {
        let target = leftover.target.unwrap_or_default();
        tracing::warn!(target_name = target, processes = leftover.processes, "ended what an agent before left running");
    }
    Ok(())
}

fn adopt_orphans() {
    if let Err(error) = reap::become_subreaper() {
        tracing::warn!("cannot become the reaper of orphaned processes: {error}");
    }
    tokio::spawn(async {
        if let Err(error) = reap::reap_for_ever().await {
            tracing::error!("orphaned processes are not reaped: {error}");
        }
    });
}

fn audit(config: &Config) -> (Audit, Option<JoinHandle<()>>) {
    match &config.audit {
        Some(path) => {
            let (audit, writer) = Audit::to(path.clone());
            (audit, Some(tokio::spawn(writer.run())))
        }
        None => (Audit::off(), None),
    }
}

fn reload_context(prepared: &Prepared, state_dir: &StateDir, options: &Options) -> reload::Context {
    let stdin = if options.command.is_empty() { exec::Stdin::Null } else { exec::Stdin::Inherit };
    reload::Context {
        target: prepared.loaded.config.targets.keys().next().cloned().unwrap_or_else(|| Arc::from("")),
        state_dir: state_dir.path().to_owned(),
        key: state_dir.key().clone(),
        inherit: Inherit { withhold: prepared.loaded.confidential.auth_variables.clone(), pass: Vec::new() },
        original_core: Some(options.original.core_limit),
        original_umask: Some(options.original.umask),
        stdin,
        trampoline: PathBuf::from("/proc/self/exe"),
        bus: Bus::system(),
        sockets: exec::Sockets::default(),
        stop: CancellationToken::new(),
    }
}

fn drivers(
    prepared: &Prepared,
    watch: &WatchHandle,
    state_dir: &StateDir,
    surroundings: &driver::Surroundings,
) -> Result<BTreeMap<TargetName, Driver>, Failed> {
    let mut drivers = BTreeMap::new();
    for name in prepared.loaded.config.targets.keys() {
        let Some(assignment) = assignment(prepared, watch, name) else { continue };
        let driver = Driver::spawn(assignment, state_dir, surroundings.clone()).map_err(|error| {
            let class = match &error {
                driver::DriverError::State { source, .. } => Class::of_file(source),
                driver::DriverError::Reload { .. } => Class::Config,
            };
            Failed::new(class, error)
        })?;
        drivers.insert(Arc::clone(name), driver);
    }
    Ok(drivers)
}

/// One target's part of what was prepared.
pub(super) fn assignment(prepared: &Prepared, watch: &WatchHandle, name: &str) -> Option<Assignment> {
    let config = &prepared.loaded.config;
    Some(Assignment {
        target: Arc::clone(config.targets.get(name)?),
        renderer: Arc::clone(prepared.renderers.get(name)?),
        snapshots: watch.snapshots(name)?,
        dead: watch.dead(),
        withhold: prepared.loaded.confidential.auth_variables.clone(),
    })
}

async fn serve(
    shared: &Arc<Shared>,
    state_dir: &StateDir,
    cancel: &CancellationToken,
) -> Result<Vec<JoinHandle<()>>, Failed> {
    let desk = Arc::new(Desk(Arc::clone(shared)));
    let listener = control::bind(state_dir).map_err(|e| Failed::of_file(&e))?;
    let mut servers = vec![tokio::spawn(control::serve(listener, Arc::clone(&desk) as _, cancel.clone()))];
    let address = shared.config().admin;
    if let Some(address) = address {
        let listener = admin::bind(address).await.map_err(|e| Failed::new(Class::Unavailable, e))?;
        servers.push(tokio::spawn(admin::serve(listener, desk, cancel.clone())));
    }
    Ok(servers)
}
