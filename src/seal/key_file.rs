//! The file that `state_key` names.

use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use zeroize::Zeroizing;

use super::{KEY_ACT as ACT, SHORTEST_KEY, Seal};
use crate::durable::{self, FileError};

const LARGEST: u64 = 64 * 1024;
const MAKE: &str = "make one with `openssl rand -base64 48`";

pub(super) fn read(path: &Path) -> Result<Seal, FileError> {
    let named = |mut error: FileError| {
        error.op = ACT;
        error
    };
    // Through symlinks: mounted secrets are links.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| {
        let mut error = FileError::os(ACT, path, errno);
        if errno == Errno::NOENT {
            error.hint = Some(format!("put the key of before back; for a new state_dir, {MAKE}"));
        }
        error
    })?;
    refuse_unsafe(&fd, path)?;
    let bytes = Zeroizing::new(durable::read_fd(fd, path, LARGEST).map_err(named)?);
    Seal::new(trimmed(&bytes)).ok_or_else(|| {
        let why = format!("it has {} bytes, and at least {SHORTEST_KEY} are needed", trimmed(&bytes).len());
        FileError::refused(ACT, path, why, MAKE)
    })
}

/// Less one newline, where all before it is one line of text.
fn trimmed(bytes: &[u8]) -> &[u8] {
    let line = bytes.strip_suffix(b"\n").map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    line.filter(|line| line.iter().all(|byte| matches!(byte, b' '..=b'~'))).unwrap_or(bytes)
}

/// As ssh with a private key, and a little more: it is the agent's own or root's, and nobody else may read it. A group may
/// only where root says so, as systemd (credentials) and Kubernetes (`fsGroup`) do.
fn refuse_unsafe(fd: &OwnedFd, path: &Path) -> Result<(), FileError> {
    let stat = rustix::fs::fstat(fd).map_err(|errno| FileError::os(ACT, path, errno))?;
    let me = rustix::process::geteuid().as_raw();
    let why = unsafe_because(stat.st_mode & 0o7777, stat.st_uid, me, is_credential(path));
    let Some((why, hint)) = why else { return Ok(()) };
    let mut error = FileError::os(ACT, path, Errno::ACCESS);
    error.hint = Some(format!("{why}: {}", hint.replace("PATH", &path.display().to_string())));
    Err(error)
}

/// Whether systemd put it there for this service.
fn is_credential(path: &Path) -> bool {
    std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|dir| !dir.is_empty() && path.starts_with(dir))
}

fn unsafe_because(mode: u32, owner: u32, me: u32, credential: bool) -> Option<(String, String)> {
    let group_may = owner == 0 && mode & 0o030 == 0 && (me != 0 || credential);
    if owner != me && owner != 0 {
        return Some((format!("it belongs to uid {owner}, who can change it"), format!("`chown {me} PATH`")));
    }
    if mode & 0o007 != 0 || (mode & 0o070 != 0 && !group_may) {
        let why = format!("its mode is {mode:04o}, and others may read or change it");
        return Some((why, "`chmod 400 PATH` (for a Kubernetes secret, `defaultMode: 0400`)".to_owned()));
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_newline_of_a_line_of_text_is_cut_off() {
        assert_eq!(trimmed(b"abc\n"), b"abc");
        assert_eq!(trimmed(b"abc\r\n"), b"abc");
        assert_eq!(trimmed(b"abc\n\n"), b"abc\n\n");
        assert_eq!(trimmed(b"abc"), b"abc");
        assert_eq!(trimmed(b"\x00bc\n"), b"\x00bc\n");
        assert_eq!(trimmed(b"\xffbc\n"), b"\xffbc\n");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let refused = |mode, owner, me, credential| unsafe_because(mode, owner, me, credential).is_some();
        for mode in [0o400, 0o600] {
            assert!(!refused(mode, 1000, 1000, false));
            assert!(!refused(mode, 0, 0, false));
            assert!(!refused(mode, 0, 1000, false));
            assert!(refused(mode, 1001, 1000, false), "of somebody else");
            assert!(refused(mode, 1001, 0, false), "root does not trust it either");
        }
        for mode in [0o440, 0o640] {
            assert!(refused(mode, 1000, 1000, false));
            assert!(refused(mode, 0, 0, false));
            assert!(!refused(mode, 0, 0, true), "a credential of systemd's");
            assert!(!refused(mode, 0, 1000, false), "root lets the agent's group read it");
        }
        for mode in [0o444, 0o460, 0o404, 0o602] {
            assert!(refused(mode, 0, 1000, true), "{mode:o}");
            assert!(refused(mode, 0, 0, true), "{mode:o}");
            assert!(refused(mode, 1000, 1000, false), "{mode:o}");
        }
    }

    #[test]
    fn a_file_is_a_key_or_says_why_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let put = |bytes: &[u8], mode| {
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Seal::read(&path)
        };
        let why = |seal: Result<Seal, FileError>| seal.unwrap_err().to_string();
        let missing = why(Seal::read(&path));
        assert!(missing.contains("state_key") && missing.contains("openssl rand"), "{missing}");
        assert!(put(&[7; 32], 0o600).is_ok());
        assert!(why(put(&[7; 31], 0o600)).contains("31 bytes, and at least 32"));
        assert!(why(put(b"0123456789012345678901234567890\n", 0o600)).contains("31 bytes"));
        assert!(why(put(&[7; 70_000], 0o600)).contains("larger"));
        let open = why(put(&[7; 32], 0o644));
        assert!(open.contains("0644") && open.contains("chmod 400"), "{open}");
        let folder = why(Seal::read(dir.path()));
        assert!(folder.contains("state_key"), "{folder}");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        put(&[7; 32], 0o400).unwrap();
        assert!(Seal::read(&link).is_ok());
        let (one, two) = (Seal::read(&link).unwrap(), Seal::new(&[7; 32]).unwrap());
        let sealed = one.seal("p", Path::new("x"), b"v").unwrap();
        assert_eq!(two.open("p", Path::new("x"), &sealed).unwrap().expose(), b"v");
    }
}
