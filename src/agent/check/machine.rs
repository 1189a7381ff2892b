//! This machine against the config: folders, owners, programs, pidfiles, units. Looks, and changes nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, AtFlags, CWD};
use rustix::io::Errno;
use tokio::time::Instant;

use super::Report;
use crate::agent::prepare::Prepared;
use crate::agent::problem::{Class, in_the_way};
use crate::config::model::{HealthCheck, ReloadConfig, TargetConfig};
use crate::dbus::{Bus, BusError};
use crate::generation::differences;
use crate::render::{Rendered, RenderedFile};
use crate::secret::SecretBytes;

/// Bound on asking systemd.
const BUS: Duration = Duration::from_secs(5);

/// What one key of the config needs of this machine.
pub(super) struct Needs<'a> {
    pub prepared: &'a Prepared,
    pub offline: bool,
    /// Where in the config.
    pub key: &'a str,
}

impl Needs<'_> {
    /// A fault here; offline a warning, for the config may be meant for another machine.
    fn lacks(&self, class: Class, message: &str, hint: Option<String>, report: &mut Report) {
        let fault = self.prepared.loaded.fault(self.key, format!("{}: {message}", self.key), hint);
        if self.offline { report.warning(fault) } else { report.fault(class, fault) }
    }

    /// A folder in which this process can make files, or can make the folder itself.
    pub fn folder(&self, folder: &Path, what: &str, report: &mut Report) {
        let mut at = folder;
        let there = loop {
            match std::fs::metadata(at) {
                Ok(found) if found.is_dir() => break at,
                Ok(_) => {
                    let message = format!("{} is no folder, so {what} cannot be made in it", at.display());
                    return self.lacks(Class::Io, &message, None, report);
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => match at.parent() {
                    Some(parent) => at = parent,
                    None => return,
                },
                Err(error) => {
                    let class =
                        if Errno::from_io_error(&error) == Some(Errno::ACCESS) { Class::Denied } else { Class::Io };
                    return self.lacks(class, &format!("{}: {error}", at.display()), None, report);
                }
            }
        };
        match access(there, Access::WRITE_OK | Access::EXEC_OK) {
            Ok(()) => {}
            Err(errno) => {
                let me = rustix::process::geteuid().as_raw();
                let (class, hint) = match errno {
                    Errno::ROFS => (Class::Io, "remount it, or name another place".to_owned()),
                    _ => (Class::Denied, format!("let uid {me}, as which the agent runs, write in it")),
                };
                let message = format!("{what} cannot be made in {}: {errno}", there.display());
                self.lacks(class, &message, Some(hint), report);
            }
        }
    }

    /// A program that can be started.
    fn program(&self, program: &str, cwd: Option<&Path>, report: &mut Report) {
        if program.is_empty() {
            return;
        }
        let candidates: Vec<PathBuf> = if program.contains('/') {
            vec![cwd.map_or_else(|| PathBuf::from(program), |cwd| cwd.join(program))]
        } else {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|folder| folder.join(program)).collect()
        };
        let files: Vec<&PathBuf> = candidates.iter().filter(|path| path.is_file()).collect();
        if files.is_empty() {
            let place = if program.contains('/') { "there is no such file" } else { "no such program in PATH" };
            let message = format!("`{program}` cannot be started: {place}");
            return self.lacks(Class::Missing, &message, Some("install it, or name it by its path".into()), report);
        }
        if !files.iter().any(|path| access(path, Access::EXEC_OK).is_ok()) {
            let message = format!("`{program}` cannot be started: {} is not executable", files[0].display());
            self.lacks(Class::Denied, &message, Some("`chmod +x` it".into()), report);
        }
    }
}

fn access(path: &Path, how: Access) -> Result<(), Errno> {
    rustix::fs::accessat(CWD, path, how, AtFlags::EACCESS)
}

/// Everything but systemd.
pub(super) fn look(prepared: &Prepared, offline: bool, report: &mut Report) {
    for target in prepared.loaded.config.targets.values() {
        let before = (report.faults.len(), report.warnings.len());
        destinations(prepared, target, offline, report);
        process(prepared, target, offline, report);
        if before == (report.faults.len(), report.warnings.len()) {
            report.checked.push(format!("target {}: its paths, owners and programs", target.name));
        }
    }
    if let Some(folder) = prepared.loaded.config.audit.as_deref().and_then(Path::parent) {
        Needs { prepared, offline, key: "audit" }.folder(folder, "the audit file", report);
    }
}

fn destinations(prepared: &Prepared, target: &TargetConfig, offline: bool, report: &mut Report) {
    let nothing = Arc::new(SecretBytes::new(Vec::new()));
    let files = target.files.iter().map(|file| RenderedFile {
        path: file.path.clone(),
        bytes: Arc::clone(&nothing),
        mode: file.mode,
        uid: file.uid,
        gid: file.gid,
        follow_symlinks: file.follow_symlinks,
    });
    let rendered =
        Rendered { files: files.collect(), directory: target.directory.clone(), env: Vec::new(), health: None };
    for (path, found) in differences(&rendered) {
        let index = target.files.iter().position(|file| file.path == path);
        let key = match index {
            Some(index) => format!("targets.{}.files[{index}].path", target.name),
            None => format!("targets.{}.directory", target.name),
        };
        match in_the_way(target.directory.as_deref(), &path, &found) {
            // A wrong path is wrong on every machine that has it.
            Some((Class::Io, why)) => {
                report.fault(Class::Io, prepared.loaded.fault(&key, format!("{key}: {why}"), None))
            }
            Some((class, why)) => Needs { prepared, offline, key: &key }.lacks(class, &why, None, report),
            None => {}
        }
    }
    for (index, file) in target.files.iter().enumerate() {
        let key = format!("targets.{}.files[{index}]", target.name);
        let needs = Needs { prepared, offline, key: &key };
        let folder = target.directory.as_deref().or(file.path.parent());
        if let Some(folder) = folder {
            needs.folder(folder, &file.path.display().to_string(), report);
        }
        owner(&needs, file.uid, file.gid, report);
        if let Some(check) = &file.check {
            let key = format!("{key}.check.run");
            Needs { key: &key, ..needs }.program(check.run.first().map_or("", String::as_str), None, report);
        }
    }
}

/// chown(2): root and CAP_CHOWN may give a file to anybody; others only to themselves and to groups that they are in.
fn owner(needs: &Needs<'_>, uid: Option<u32>, gid: Option<u32>, report: &mut Report) {
    let me = rustix::process::geteuid().as_raw();
    let my_group = rustix::process::getegid().as_raw();
    if may_chown() {
        return;
    }
    let hint = || Some("run the agent as root or with CAP_CHOWN and CAP_FOWNER, or leave it out".to_owned());
    if let Some(uid) = uid.filter(|uid| *uid != me) {
        let message = format!("owner: uid {me}, as which the agent runs, cannot give files to uid {uid}");
        needs.lacks(Class::Denied, &message, hint(), report);
    }
    let groups = nix::unistd::getgroups().unwrap_or_default();
    let other = |gid: &u32| *gid != my_group && !groups.iter().any(|group| group.as_raw() == *gid);
    if let Some(gid) = gid.filter(other) {
        let message = format!("group: uid {me}, as which the agent runs, is not in the group {gid}");
        needs.lacks(Class::Denied, &message, hint(), report);
    }
}

/// CAP_CHOWN is bit 0 of the effective set (capabilities(7), proc_pid_status(5)).
fn may_chown() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    match effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()) {
        Some(capabilities) => capabilities & 1 == 1,
        None => rustix::process::geteuid().is_root(),
    }
}

fn process(prepared: &Prepared, target: &TargetConfig, offline: bool, report: &mut Report) {
    let reload = format!("targets.{}.reload", target.name);
    let needs = Needs { prepared, offline, key: &reload };
    match &target.reload {
        ReloadConfig::None | ReloadConfig::Systemd(_) => {}
        ReloadConfig::Command(command) => {
            needs.program(command.run.first().map_or("", String::as_str), None, report);
        }
        ReloadConfig::Exec(exec) => match &exec.cwd {
            Some(cwd) if !cwd.is_dir() => {
                needs.lacks(Class::Missing, &format!("cwd: {} is not there", cwd.display()), None, report);
            }
            _ => needs.program(exec.command.first().map_or("", String::as_str), exec.cwd.as_deref(), report),
        },
        ReloadConfig::Signal(signal) => {
            if let Some(folder) = signal.pidfile.parent().filter(|folder| !folder.is_dir()) {
                let message = format!("pidfile: the folder {} is not there", folder.display());
                let hint = Some("the process that writes the pidfile makes it; is the path right?".to_owned());
                // A process that is not running yet is no fault, and its folder may come with it.
                let needs = Needs { offline: offline || !target.require_running, ..needs };
                needs.lacks(Class::Missing, &message, hint, report);
            }
        }
    }
    if let HealthCheck::Command(run) = &target.health.check {
        let key = format!("targets.{}.health", target.name);
        Needs { prepared, offline, key: &key }.program(run.first().map_or("", String::as_str), None, report);
    }
}

/// Whether systemd knows the units. Where it cannot be asked, that is a warning.
pub(super) async fn units(prepared: &Prepared, report: &mut Report) {
    let bus = Bus::system();
    let mut reachable = true;
    for target in prepared.loaded.config.targets.values() {
        let mut units: Vec<(&str, String)> = Vec::new();
        if let ReloadConfig::Systemd(reload) = &target.reload {
            units.push((&reload.unit, format!("targets.{}.reload", target.name)));
        }
        if let HealthCheck::Systemd(unit) = &target.health.check {
            units.push((unit, format!("targets.{}.health", target.name)));
        }
        for (unit, key) in units {
            if !reachable {
                continue;
            }
            let answer = bus.unit(unit, Instant::now() + BUS).await;
            let needs = Needs { prepared, offline: false, key: &key };
            match answer {
                Ok(state) if state.load == "loaded" => {
                    report.checked.push(format!("target {}: unit {unit} is {}", target.name, state.describe()));
                }
                Ok(state) => {
                    let hint = Some(format!("see `systemctl status {unit}`"));
                    needs.lacks(Class::Missing, &format!("systemd says {unit} is {}", state.load), hint, report);
                }
                Err(BusError::NoSuchUnit(_)) => {
                    needs.lacks(Class::Missing, &format!("systemd knows no unit {unit}"), None, report);
                }
                Err(error) => {
                    reachable = !error.is_transient();
                    Needs { offline: true, ..needs }.lacks(
                        Class::Unavailable,
                        &format!("unit {unit}: {error}"),
                        None,
                        report,
                    );
                }
            }
        }
    }
}
