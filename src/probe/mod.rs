//! One attempt to learn whether a target is healthy. How many attempts, and what they mean, is `verdict`'s.

use futures_util::future::BoxFuture;

/// What one attempt showed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attempt {
    /// It is as it should be.
    Pass,
    /// It is not; why, for the operator, without values (a body is never quoted).
    Fail(String),
}

/// A probe makes ONE attempt, bounded by its own timeout. Cancel-safe; it changes nothing.
pub trait Probe: Send + Sync {
    /// Asks once.
    fn attempt(&self) -> BoxFuture<'_, Attempt>;
}
