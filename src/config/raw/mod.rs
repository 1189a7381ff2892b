//! The config as it is written: the keys, their types, defaults and meanings. The docs here become the JSON Schema and
//! the tables of docs/config.md.

use super::decode::{Table, record};
use super::scalar::{FilePath, Listen};

pub mod process;
pub mod stores;
pub mod targets;

use stores::{RawSecret, RawStore};
use targets::RawTarget;

record! {
    /// The config of the agent: stores, the secrets in them, and the targets that use them.
    pub struct RawConfig {
        /// Journal, retained generations and control socket. Made with mode 0700; one agent at a time.
        state_dir: FilePath,
        /// The key that seals what state_dir keeps of secrets; without it they are kept in the clear on a memory-backed
        /// state_dir, and what need not be kept is not kept elsewhere.
        state_key: Option<RawStateKey>,
        /// The read-only HTTP endpoint; off unless set.
        admin: Option<RawAdmin>,
        /// The audit log; off unless set.
        audit: Option<RawAudit>,
        /// Stores by name. A name is also the scheme of references in `resolve` files.
        stores: Table<RawStore>,
        /// Secrets by name. A name is what templates use: `secrets.NAME.FIELD`.
        secrets: Option<Table<RawSecret>>,
        /// Targets by name. A target is what rotates as one unit.
        targets: Table<RawTarget>,
    }
}

record! {
    /// Where the key of state_dir is.
    pub struct RawStateKey {
        /// File with the key: at least 32 bytes that nobody can guess (a systemd credential, say), readable by the agent alone.
        file: FilePath,
    }
}

record! {
    /// The read-only HTTP endpoint: /live, /ready, /metrics, /status.
    pub struct RawAdmin {
        /// Address and port, on loopback unless `exposed`.
        listen: Listen,
        /// Whether `listen` may be an address that other machines reach: in a pod, where the kubelet asks at the pod's own.
        /// Nobody is asked who they are; no value of a secret is shown, but names, versions and times are.
        exposed: bool = false,
    }
}

record! {
    /// The audit log.
    pub struct RawAudit {
        /// File to which events are appended, one JSON object a line.
        path: FilePath,
    }
}
