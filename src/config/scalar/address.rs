//! Addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::text;
use crate::config::decode::{Decoder, Shape, written};
use crate::config::tree::Node;

/// An address and port to listen on, and how it is written.
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// As a message may show it.
    pub written: String,
}

impl Shape for Listen {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let scalar = text(node, "an address such as 127.0.0.1:9187", d)?;
        let named = scalar.text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
        let named = named.map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
        let Some(address) = named.or_else(|| scalar.text.parse().ok()) else {
            let message = format!("{}: {} is no address with a port", d.path(), written(scalar));
            d.fault_hint(node.place, message, "write it as 127.0.0.1:9187".to_owned());
            return None;
        };
        Some(Self { address, written: written(scalar) })
    }

    fn schema() -> Value {
        json!({"type": "string", "title": "address:port"})
    }
}

/// `host:port`.
pub struct HostPort(pub String);

impl Shape for HostPort {
    fn decode(node: &Node, d: &mut Decoder) -> Option<Self> {
        let scalar = text(node, "a host and port such as 127.0.0.1:5432", d)?;
        let sound = scalar.text.rsplit_once(':').is_some_and(|(host, port)| {
            let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
            let host_sound = match bare {
                Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
                None => !host.is_empty() && !host.contains([':', '/', ' ', '@']),
            };
            host_sound && port.parse::<u16>().is_ok_and(|port| port > 0)
        });
        if !sound {
            let message = format!("{}: {} is no host:port", d.path(), written(scalar));
            d.fault_hint(node.place, message, "write it as 127.0.0.1:5432 or [::1]:5432".to_owned());
            return None;
        }
        Some(Self(scalar.text.clone()))
    }

    fn schema() -> Value {
        json!({"type": "string", "title": "host:port"})
    }
}
