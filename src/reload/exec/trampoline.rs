//! What a supervised process is before it is itself: the agent's own binary, started anew.
//!
//! It waits until the agent has durably recorded its pid, takes on the user, limits and folder that it was told, and
//! becomes the program. A process of its own, because between fork(2) and execve(2) nothing may be done safely. When the
//! agent dies before it is done, so does it: the program never starts unrecorded.

use std::convert::Infallible;
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;
use nix::unistd::{Gid, Uid};
use rustix::io::FdFlags;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use signal_hook::consts::FORBIDDEN;

use super::spawn::DESCRIPTORS_MAX;
use super::wire::{self, Environment, Failure, Instructions, Step};
use crate::process::procfs::{self, Disposition};

/// The first argument by which the agent's binary knows that it is to be a trampoline. Not for people.
pub const TRAMPOLINE: &str = "__spawn";
/// sd_listen_fds(3): where the sockets begin.
const LISTEN_FDS_START: RawFd = 3;
/// Where descriptors stand out of the way.
const ASIDE: RawFd = 100;
/// Exit code of a trampoline that did not become its program (as a shell's).
const NOT_STARTED: i32 = 127;

/// Whether this process was started as a trampoline: `main` asks before anything else.
pub fn is_trampoline() -> bool {
    std::env::args_os().nth(1).is_some_and(|argument| argument == TRAMPOLINE)
}

/// Becomes the program, or says why not and ends. Call it first in `main`, before any thread, runtime or log.
pub fn trampoline_main() -> ! {
    let failed = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(control) => {
            let mut control = UnixStream::from(control);
            match become_program(&mut control) {
                Ok(never) => match never {},
                Err(failure) => {
                    let answer = serde_json::to_vec(&failure).unwrap_or_default();
                    control.write_all(&answer)
                }
            }
        }
        Err(error) => Err(error),
    };
    drop(failed);
    std::process::exit(NOT_STARTED)
}

fn become_program(control: &mut UnixStream) -> Result<Infallible, Failure> {
    let (stdin, sockets) = receive_descriptors(control).map_err(at(Step::Read))?;
    let (instructions, environment) = wire::decode(&mut *control).map_err(at(Step::Read))?;
    let stdin = match stdin {
        Some(stdin) => stdin,
        None => OpenOptions::new().read(true).open("/dev/null").map_err(at(Step::Stdin))?.into(),
    };
    rustix::stdio::dup2_stdin(&stdin).map_err(|e| at(Step::Stdin)(e.into()))?;
    // Its number may be one that a socket is to have.
    drop(stdin);
    if sockets.len() != instructions.listen.len() {
        return Err(at(Step::Sockets)(io::Error::other("not all of them arrived")));
    }
    let placed = place(control, sockets).map_err(at(Step::Sockets))?;
    close_others(control, placed).map_err(at(Step::Sockets))?;
    if instructions.foreground {
        take_terminal(rustix::process::getpid());
    }
    restore_core_limit(instructions.core).map_err(at(Step::Limits))?;
    if let Some(umask) = instructions.umask {
        nix::sys::stat::umask(Mode::from_bits_truncate(umask));
    }
    default_signals().map_err(at(Step::Exec))?;
    switch_user(&instructions)?;
    // What a unit gives the agent (AmbientCapabilities=) is for the agent. A kernel that knows of none has none.
    let _none = rustix::thread::clear_ambient_capability_set();
    if let Some(cwd) = &instructions.cwd {
        std::env::set_current_dir(cwd).map_err(at(Step::Cwd))?;
    }
    // Not before the user is switched: that clears it.
    if !instructions.outlives {
        die_with_agent().map_err(at(Step::Exec))?;
    }
    if std::os::unix::process::parent_id() != instructions.agent {
        return Err(at(Step::Exec)(io::Error::other("the agent is gone")));
    }
    Err(exec(&instructions, environment))
}

fn at(step: Step) -> impl Fn(io::Error) -> Failure {
    move |error| Failure { step, errno: error.raw_os_error(), text: error.to_string() }
}

/// The first byte and what comes with it: standard input, if it is passed on, and the sockets.
fn receive_descriptors(control: &mut UnixStream) -> io::Result<(Option<OwnedFd>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received =
        rustix::net::recvmsg(&*control, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    let with_stdin = byte == [1] && !descriptors.is_empty();
    let sockets = descriptors.split_off(usize::from(with_stdin));
    Ok((descriptors.pop(), sockets))
}

/// Puts the sockets at 3 and on, the only descriptors that the program inherits beside 0, 1 and 2. Answers the first number
/// after them.
fn place(control: &mut UnixStream, sockets: Vec<OwnedFd>) -> io::Result<RawFd> {
    let mut end = LISTEN_FDS_START;
    if sockets.is_empty() {
        return Ok(end);
    }
    let aside = sockets.iter().map(|socket| rustix::io::fcntl_dupfd_cloexec(socket, ASIDE));
    let aside: Vec<OwnedFd> = aside.collect::<Result<_, _>>()?;
    drop(sockets);
    *control = UnixStream::from(rustix::io::fcntl_dupfd_cloexec(&*control, ASIDE)?);
    for (number, socket) in (LISTEN_FDS_START..).zip(&aside) {
        // What the agent's own parent left open there, if anything.
        let _closed = nix::unistd::close(number);
        let placed = rustix::io::fcntl_dupfd_cloexec(socket, number)?;
        rustix::io::fcntl_setfd(&placed, FdFlags::empty())?;
        if placed.into_raw_fd() != number {
            return Err(io::Error::other(format!("descriptor {number} is taken")));
        }
        end = number + 1;
    }
    Ok(end)
}

/// Closes what the agent's own parent left open: sockets that systemd gave the agent, say.
fn close_others(control: &UnixStream, placed: RawFd) -> io::Result<()> {
    let open: Vec<RawFd> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number >= placed && *number != control.as_raw_fd())
        .collect();
    for number in open {
        // The folder itself was one of them.
        let _closed = nix::unistd::close(number);
    }
    Ok(())
}

/// Has signals that the agent was told to ignore do what they do by default: execve(2) resets what has a handler. (The mask is
/// emptied by std's exec.)
fn default_signals() -> io::Result<()> {
    let own = i32::try_from(std::process::id()).unwrap_or(0);
    for signal in Signal::iterator().filter(|signal| !FORBIDDEN.contains(&(*signal as i32))) {
        if procfs::disposition(own, signal)? == Some(Disposition::Ignored) {
            signal_hook::flag::register(signal as i32, Arc::default())?;
        }
    }
    Ok(())
}

/// Makes a process group the one that the terminal on standard input listens to; nothing where there is no terminal.
pub(super) fn take_terminal(group: rustix::process::Pid) {
    let mut stop = SigSet::empty();
    stop.add(Signal::SIGTTOU);
    // From the background that signal would stop us (tcsetpgrp(3)).
    if stop.thread_block().is_ok() {
        let _ = rustix::termios::tcsetpgrp(std::io::stdin(), group);
        let _ = stop.thread_unblock();
    }
}

/// The agent forbids itself core dumps; its child decides for itself. Where the hard limit may not be raised, as far as it goes.
fn restore_core_limit(core: Option<(u64, u64)>) -> io::Result<()> {
    let Some((soft, hard)) = core else { return Ok(()) };
    if setrlimit(Resource::RLIMIT_CORE, soft, hard).is_ok() {
        return Ok(());
    }
    let (_, now) = getrlimit(Resource::RLIMIT_CORE)?;
    Ok(setrlimit(Resource::RLIMIT_CORE, soft.min(now), now)?)
}

fn switch_user(instructions: &Instructions) -> Result<(), Failure> {
    let group = |error: nix::Error| at(Step::Group)(error.into());
    let user = |error: nix::Error| at(Step::User)(error.into());
    let gid = instructions.gid.or(instructions.user.as_ref().map(|(_, _, gid)| *gid)).map(Gid::from_raw);
    if let Some((name, uid, _)) = &instructions.user {
        let uid = Uid::from_raw(*uid);
        let gid = gid.unwrap_or_else(nix::unistd::getegid);
        if uid == nix::unistd::geteuid() && gid == nix::unistd::getegid() && !uid.is_root() {
            return Ok(());
        }
        let name = CString::new(name.as_str()).map_err(|e| at(Step::User)(io::Error::other(e)))?;
        nix::unistd::initgroups(&name, gid).map_err(group)?;
        nix::unistd::setresgid(gid, gid, gid).map_err(group)?;
        nix::unistd::setresuid(uid, uid, uid).map_err(user)?;
    } else if let Some(gid) = gid {
        nix::unistd::setresgid(gid, gid, gid).map_err(group)?;
    }
    Ok(())
}

/// TERM when the agent dies, however it dies (prctl(2), PR_SET_PDEATHSIG).
fn die_with_agent() -> io::Result<()> {
    Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM))?)
}

/// Only comes back when it failed. std's exec empties the signal mask and gives SIGPIPE its default action back.
fn exec(instructions: &Instructions, environment: Environment) -> Failure {
    let Some((program, arguments)) = instructions.argv.split_first() else {
        return Failure { step: Step::Exec, errno: None, text: "no program is named".to_owned() };
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(environment);
    if !instructions.listen.is_empty() {
        command.env("LISTEN_FDS", instructions.listen.len().to_string());
        command.env("LISTEN_PID", std::process::id().to_string());
        command.env("LISTEN_FDNAMES", instructions.listen.join(":"));
    }
    let error = command.exec();
    at(Step::Exec)(error)
}
