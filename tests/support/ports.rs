//! Ports for programs that take only a number.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::TcpListener;

/// A port of loopback that nobody listens on, drawn from those below what the system gives away by itself
/// (`ip_local_port_range`): no connection of another test becomes its owner before it is used.
pub fn free_port() -> u16 {
    loop {
        let port = 20_000 + u16::try_from(RandomState::new().build_hasher().finish() % 12_000).unwrap();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
