//! Ports for programs that take only a number.
#![allow(dead_code, reason = "every test uses its own part")]

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::TcpListener;

/// A port of loopback that nobody listens on, drawn from those below what the system gives away by itself
/// (`ip_local_port_range`): no connection of another test becomes its owner before it is used.
pub fn free_port() -> u16 {
    listener().local_addr().unwrap().port()
}

/// A listener on such a port.
pub fn listener() -> TcpListener {
    loop {
        let port = 20_000 + u16::try_from(RandomState::new().build_hasher().finish() % 12_000).unwrap();
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener;
        }
    }
}

/// A listener on this port, which nobody else uses: what another test forks may have the one before for a moment yet.
pub fn listener_on(port: u16) -> TcpListener {
    loop {
        match TcpListener::bind(("127.0.0.1", port)) {
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            bound => return bound.unwrap(),
        }
    }
}
