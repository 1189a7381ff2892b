//! `reload` of a target.

use super::Builder;
use crate::config::decode::{Slot, Table};
use crate::config::fault::{Place, shown_key};
use crate::config::model::{
    CommandReload, ExecReload, ExpectProcess, Listen, OnChange, ProcessUser, ReloadConfig, SignalReload, SystemdReload,
};
use crate::config::raw::process::{RawExec, RawReload, RawSignal};
use crate::config::scalar::{Account, Text};

/// The kernel passes at most 253 descriptors in one message.
const LISTEN_MAX: usize = 32;
/// systemd.unit(5): the kinds of unit.
const UNIT_KINDS: [&str; 11] =
    ["service", "socket", "device", "mount", "automount", "swap", "target", "path", "timer", "slice", "scope"];

impl Builder<'_> {
    pub(super) fn reload(&mut self, slot: &Slot<RawReload>, target: Place, at: &str) -> ReloadConfig {
        let command = self.inputs.command;
        match slot.get() {
            None => match command {
                Some(command) => ReloadConfig::Exec(default_exec(command)),
                None => ReloadConfig::None,
            },
            Some(RawReload::Exec(raw)) => ReloadConfig::Exec(self.exec(raw, at)),
            Some(_) if command.is_some() => {
                let message = format!("{at}.reload: `agent run -- CMD` supervises CMD itself");
                let place = if slot.given() { slot.place() } else { target };
                self.d.fault_hint(place, message, "set type: exec, or remove reload".to_owned());
                ReloadConfig::None
            }
            Some(RawReload::None(_)) => ReloadConfig::None,
            Some(RawReload::Signal(raw)) => ReloadConfig::Signal(self.signal(raw, at)),
            Some(RawReload::Systemd(raw)) => ReloadConfig::Systemd(SystemdReload {
                unit: self.unit(&raw.unit, raw.unit.place, &format!("{at}.reload.unit")),
                verb: *raw.verb,
                timeout: raw.timeout.0,
            }),
            Some(RawReload::Command(raw)) => {
                ReloadConfig::Command(CommandReload { run: raw.run.0.clone(), timeout: raw.timeout.0 })
            }
        }
    }

    fn signal(&mut self, raw: &RawSignal, at: &str) -> SignalReload {
        let expect = raw.expect.get();
        let comm = expect.and_then(|expect| Some((expect.comm.get()?.0.clone(), expect.comm.place())));
        if let Some((comm, place)) = &comm
            && (comm.is_empty() || comm.len() > 15)
        {
            let message = format!("{at}.reload.expect.comm: the kernel keeps 1 to 15 bytes of a process's name");
            self.d.fault_hint(*place, message, "write the first 15 bytes, as in /proc/PID/comm".to_owned());
        }
        SignalReload {
            pidfile: self.path(&raw.pidfile),
            signal: raw.signal.0,
            expect: ExpectProcess {
                exe: expect.and_then(|expect| self.maybe_path(&expect.exe)),
                comm: comm.map(|(comm, _)| comm),
                uid: expect.and_then(|expect| self.uid(&expect.uid, &format!("{at}.reload.expect.uid"))),
            },
        }
    }

    /// A unit's name with its suffix (systemd.unit(5)).
    pub(super) fn unit(&mut self, text: &Text, place: Place, at: &str) -> String {
        let kind = text.0.rsplit_once('.').map(|(_, kind)| kind);
        let unit = match kind {
            Some(kind) if UNIT_KINDS.contains(&kind) => text.0.clone(),
            _ => format!("{}.service", text.0),
        };
        let stem = unit.rsplit_once('.').map_or("", |(stem, _)| stem);
        let sound = !stem.is_empty()
            && unit.len() <= 255
            && unit.bytes().all(|b| b.is_ascii_alphanumeric() || b":_.\\@-".contains(&b));
        if !sound {
            self.d.fault_hint(place, format!("{at}: not the name of a unit"), "write it as app.service".to_owned());
        } else if stem.ends_with('@') {
            let message = format!("{at}: names a template without its instance");
            self.d.fault_hint(place, message, "write it as app@instance.service".to_owned());
        }
        unit
    }

    fn exec(&mut self, raw: &RawExec, at: &str) -> ExecReload {
        let at = format!("{at}.reload");
        let command = match (self.inputs.command, raw.command.get()) {
            (Some(command), own) => {
                if own.is_some() {
                    self.d.warn(
                        raw.command.place(),
                        format!("{at}.command: the one of the command line takes its place"),
                    );
                }
                command.to_vec()
            }
            (None, Some(own)) => own.0.clone(),
            (None, None) => {
                if !raw.command.given() {
                    let hint = "or start it as `agent run -- CMD`".to_owned();
                    self.d.fault_hint(raw.place, format!("missing key 'command' in {at}"), hint);
                }
                Vec::new()
            }
        };
        if let Some(env) = raw.env.get() {
            for (name, _) in env.0.iter().filter(|(name, _)| name.is_empty() || name.contains(['=', '\0'])) {
                self.d.fault(name.place, format!("{at}.env: '{}' cannot name a variable", shown_key(name)));
            }
        }
        let listen = self.listen(raw, &at);
        let env = raw.env.get().into_iter().flat_map(Table::sound);
        let env = env.map(|(name, value)| (name.value.clone(), value.0.clone())).collect();
        let gid = self.gid(&raw.group, &format!("{at}.group"));
        ExecReload {
            command,
            env,
            on_change: *raw.on_change,
            listen,
            stop_timeout: raw.stop_timeout.0,
            drain: raw.drain.0,
            user: self.process_user(raw, gid, &at),
            gid,
            cwd: self.maybe_path(&raw.cwd),
        }
    }

    fn listen(&mut self, raw: &RawExec, at: &str) -> Vec<Listen> {
        let slots = raw.listen.get().map(Vec::as_slice).unwrap_or_default();
        if *raw.on_change == OnChange::Handover
            && slots.is_empty()
            && !(raw.listen.given() && raw.listen.get().is_none())
        {
            let message =
                format!("{at}.on_change: handover needs listen: the agent owns the sockets that both processes serve");
            self.d.fault_hint(raw.on_change.place, message, "set listen: [\"tcp://0.0.0.0:4000\"]".to_owned());
        }
        if slots.len() > LISTEN_MAX {
            self.d.fault(raw.listen.place(), format!("{at}.listen: at most {LISTEN_MAX} sockets"));
        }
        let mut listen = Vec::new();
        for socket in slots {
            match Listen::parse(&socket.0) {
                Some(address) if listen.contains(&address) => {
                    self.d.fault(socket.place, format!("{at}.listen: this socket stands twice"));
                }
                Some(address) => listen.push(address),
                None => {
                    let message = format!("{at}.listen: not a socket to listen on");
                    let hint =
                        "write it as tcp://0.0.0.0:4000, tcp://[::]:4000 or unix:///path (names are not looked up)";
                    self.d.fault_hint(socket.place, message, hint.to_owned());
                }
            }
        }
        listen
    }

    fn process_user(&mut self, raw: &RawExec, gid: Option<u32>, at: &str) -> Option<ProcessUser> {
        let account = &raw.user.get()?.account;
        match (self.inputs.users.user(account), account) {
            (Some(user), _) => Some(user),
            (None, Account::Name(_)) => self.uid(&raw.user, &format!("{at}.user")).and(None),
            (None, Account::Id(uid)) => {
                if !raw.group.given() {
                    let message = format!("{at}.user: no account has this number, so that its group is not known");
                    self.d.fault_hint(raw.user.place(), message, "set group".to_owned());
                }
                Some(ProcessUser { name: uid.to_string(), uid: *uid, gid: gid? })
            }
        }
    }
}

fn default_exec(command: &[String]) -> ExecReload {
    use std::time::Duration;
    ExecReload {
        command: command.to_vec(),
        env: Vec::new(),
        on_change: OnChange::Restart,
        listen: Vec::new(),
        stop_timeout: Duration::from_secs(10),
        drain: Duration::from_secs(30),
        user: None,
        gid: None,
        cwd: None,
    }
}
