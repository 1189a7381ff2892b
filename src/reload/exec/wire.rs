//! What the agent says to the trampoline, and the answer, over the socket that stands in for its standard input.
//!
//! One byte (with the descriptors: that of the real standard input first, where the byte is 1, then the sockets to listen
//! on), then one frame of instructions, then the environment. The environment goes over the socket so that no secret is ever in the trampoline's own `/proc`
//! entries while it still has the agent's rights. The answer is nothing (the socket closes as the program starts) or
//! one JSON object.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// No frame is longer: execve(2) takes less.
const FRAME_MAX: u32 = 16 * 1024 * 1024;

/// What the program is to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Instructions {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Name (for supplementary groups), uid and gid to switch to.
    pub user: Option<(String, u32, u32)>,
    /// Group instead of the user's, or alone.
    pub gid: Option<u32>,
    /// Working directory.
    pub cwd: Option<PathBuf>,
    /// RLIMIT_CORE.
    pub core: Option<(u64, u64)>,
    /// umask.
    pub umask: Option<u32>,
    /// The agent: the trampoline gives up when its parent is another process.
    pub agent: u32,
    /// Whether it becomes the terminal's foreground group.
    pub foreground: bool,
    /// Whether it lives on when the agent dies: it is not told TERM then.
    pub outlives: bool,
    /// Names of the sockets to listen on, in the order of their descriptors (LISTEN_FDNAMES).
    pub listen: Vec<String>,
}

/// Why the program did not start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Failure {
    /// What was tried.
    pub step: Step,
    /// The system's error number, if there is one.
    pub errno: Option<i32>,
    /// Its text.
    pub text: String,
}

/// What the trampoline does, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Step {
    /// Reading the instructions.
    Read,
    /// Standard input.
    Stdin,
    /// Sockets to listen on.
    Sockets,
    /// Limits.
    Limits,
    /// Supplementary groups and group.
    Group,
    /// User.
    User,
    /// Working directory.
    Cwd,
    /// The program itself.
    Exec,
}

/// Names and values.
pub(super) type Environment = Vec<(OsString, OsString)>;

/// The frames, in one piece.
pub(super) fn encode<'a>(
    instructions: &Instructions,
    environment: impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])>,
) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut out = Zeroizing::new(Vec::new());
    frame(&mut out, &serde_json::to_vec(instructions)?)?;
    out.extend_from_slice(&length(environment.len())?.to_le_bytes());
    for (name, value) in environment {
        frame(&mut out, name)?;
        frame(&mut out, value)?;
    }
    Ok(out)
}

fn frame(out: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    out.extend_from_slice(&length(bytes.len())?.to_le_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

fn length(length: usize) -> io::Result<u32> {
    u32::try_from(length).ok().filter(|l| *l <= FRAME_MAX).ok_or_else(|| io::Error::other("more than execve(2) takes"))
}

/// Reads what [`encode`] wrote. UnexpectedEof: the agent is gone.
pub(super) fn decode(mut from: impl Read) -> io::Result<(Instructions, Environment)> {
    let instructions = serde_json::from_slice(&read_frame(&mut from)?)?;
    let count = read_length(&mut from)?;
    let mut environment = Vec::new();
    for _ in 0..count {
        let name = OsString::from_vec(read_frame(&mut from)?);
        environment.push((name, OsString::from_vec(read_frame(&mut from)?)));
    }
    Ok((instructions, environment))
}

fn read_length(from: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    from.read_exact(&mut bytes)?;
    Ok(u32::from_le_bytes(bytes))
}

fn read_frame(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let length = read_length(from)?;
    if length > FRAME_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a frame that is too long"));
    }
    let mut bytes = vec![0; length as usize];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_arrives_and_a_cut_is_noticed() {
        let sent = Instructions {
            argv: vec!["sleep".into(), "1".into()],
            user: Some(("app".into(), 7, 8)),
            gid: None,
            cwd: Some("/tmp".into()),
            core: Some((0, u64::MAX)),
            umask: Some(0o022),
            agent: 42,
            foreground: false,
            outlives: true,
            listen: vec!["public".into()],
        };
        let environment: [(&[u8], &[u8]); 2] = [(b"A", b"\xff\n="), (b"B", b"")];
        let bytes = encode(&sent, environment.into_iter()).unwrap();
        let (got, env) = decode(bytes.as_slice()).unwrap();
        assert_eq!(got, sent);
        assert_eq!(env[0], ("A".into(), OsString::from_vec(b"\xff\n=".to_vec())));
        assert_eq!(env[1], ("B".into(), "".into()));
        for cut in 0..bytes.len() {
            assert_eq!(decode(&bytes[..cut]).unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{cut}");
        }
    }
}
