//! What the store perceives beside the server.

use std::any::Any;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use crate::aws_identity::Identity;
use crate::secret::SecretBytes;

/// Keeps a secret known for as long as it lives.
pub type Known = Box<dyn Any + Send + Sync>;

/// Clock, dice, and to whom the store tells the secrets of its own session so that no log shows them.
#[derive(Clone)]
pub struct Senses {
    /// The wall clock, for what outlives the process.
    pub clock: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    /// A number in `[0, 1)`.
    pub dice: Arc<dyn Fn() -> f64 + Send + Sync>,
    /// Learns a secret that is in no reading (a token, a secret id); it is known until the answer is dropped.
    pub learn: Arc<dyn Fn(&SecretBytes) -> Known + Send + Sync>,
    /// Who this is to AWS. Asked by no other login than its own.
    pub aws: Arc<Identity>,
    /// Where the CLI's `.vault-token` lies.
    pub home: Option<PathBuf>,
}
