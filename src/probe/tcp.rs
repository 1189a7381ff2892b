//! `health.type: tcp`: a connection is accepted.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::net::TcpStream;

use super::{Attempt, Probe, bounded, io_reason};

/// Connects to `host:port` and closes at once; nothing is sent. Every address of the host is tried.
pub struct TcpProbe {
    address: String,
    timeout: Duration,
}

impl TcpProbe {
    /// A probe of `host:port`.
    pub fn new(address: String, timeout: Duration) -> Self {
        Self { address, timeout }
    }
}

impl Probe for TcpProbe {
    fn attempt(&self) -> BoxFuture<'_, Attempt> {
        Box::pin(async {
            let what = format!("tcp {}", self.address);
            let connect = async { TcpStream::connect(&self.address).await.map(drop).map_err(|e| io_reason(&e)) };
            bounded(&what, self.timeout, connect).await
        })
    }
}
