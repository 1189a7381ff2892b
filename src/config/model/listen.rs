//! A socket that the agent keeps open for a supervised process.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Mode of a unix socket whose config names none, as systemd.socket(5) has it: who may connect is the folder's to say.
const UNIX_MODE: u32 = 0o666;

/// Where a supervised process listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Listen {
    /// An address and port. `[::]` takes IPv4 too, unless an IPv4 address with the same port is listed beside it.
    Tcp(SocketAddr),
    /// A unix stream socket.
    Unix {
        /// Absolute.
        path: PathBuf,
        /// Permissions of its file.
        mode: u32,
    },
}

impl Listen {
    /// Reads `tcp://0.0.0.0:4000`, `0.0.0.0:4000`, `[::]:4000`, `unix:///run/x.sock`, `unix:/run/x.sock?mode=0660`.
    /// Host names are not looked up.
    pub fn parse(text: &str) -> Option<Self> {
        let Some(rest) = text.strip_prefix("unix:") else {
            let address: SocketAddr = text.strip_prefix("tcp://").unwrap_or(text).parse().ok()?;
            return (address.port() != 0).then_some(Self::Tcp(address));
        };
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (path, mode) = match rest.split_once("?mode=") {
            Some((path, mode)) => (path, u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777)?),
            None => (rest, UNIX_MODE),
        };
        (path.len() > 1 && path.starts_with('/')).then(|| Self::Unix { path: path.into(), mode })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Unix { path, .. } => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_no_other() {
        for (text, shown) in [
            ("tcp://0.0.0.0:4000", "tcp://0.0.0.0:4000"),
            ("127.0.0.1:80", "tcp://127.0.0.1:80"),
            ("[::]:4000", "tcp://[::]:4000"),
            ("unix:///run/x.sock", "unix:///run/x.sock"),
            ("unix:/run/x.sock", "unix:///run/x.sock"),
        ] {
            assert_eq!(Listen::parse(text).unwrap().to_string(), shown, "{text}");
        }
        let own = Listen::Unix { path: "/run/x".into(), mode: 0o660 };
        assert_eq!(Listen::parse("unix:/run/x?mode=0660"), Some(own));
        for text in ["", "4000", ":4000", "localhost:4000", "0.0.0.0:0", "unix:x", "unix:/", "unix:/x?mode=9", "/run/x"]
        {
            assert_eq!(Listen::parse(text), None, "{text}");
        }
    }
}
