//! One attempt to learn whether a target is healthy. How many attempts, and what they mean, is `verdict`'s.

use std::time::Duration;

use futures_util::future::BoxFuture;

use crate::config::model::{HealthCheck, HttpRequest};
use crate::dbus::Bus;
use crate::process::Inherit;
pub use crate::verdict::Attempt;
use crate::verdict::show;

pub mod command;
pub mod http;
mod http_client;
pub mod systemd;
pub mod tcp;

/// A probe makes ONE attempt, bounded by its own timeout. Cancel-safe; it changes nothing.
pub trait Probe: Send + Sync {
    /// Asks once.
    fn attempt(&self) -> BoxFuture<'_, Attempt>;
}

/// What a probe needs beside its check. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// What a command may inherit.
    pub inherit: Inherit,
    /// systemd's bus.
    pub bus: Bus,
}

/// The probe for a health check. `rendered` is the check's request with its templates rendered over the generation on
/// trial; `check` keeps the request as it was written, and only that is quoted in reasons. `timeout` bounds one attempt.
///
/// Cheap: no file is read and no connection made before the first attempt.
pub fn build(
    check: &HealthCheck,
    rendered: Option<&HttpRequest>,
    timeout: Duration,
    context: &Context,
) -> Box<dyn Probe> {
    match check {
        HealthCheck::None => Box::new(Fixed(Attempt::Pass)),
        HealthCheck::Http(written) => match rendered {
            Some(request) => Box::new(http::HttpProbe::new(request.clone(), written, timeout)),
            None => Box::new(Fixed(Attempt::Fail("the health request of this generation is missing".into()))),
        },
        HealthCheck::Tcp(address) => Box::new(tcp::TcpProbe::new(address.clone(), timeout)),
        HealthCheck::Command(run) => {
            Box::new(command::CommandProbe::new(run.clone(), timeout, context.inherit.clone()))
        }
        HealthCheck::Systemd(unit) => Box::new(systemd::SystemdProbe::new(unit.clone(), timeout, context.bus.clone())),
    }
}

/// Always the same answer.
struct Fixed(Attempt);

impl Probe for Fixed {
    fn attempt(&self) -> BoxFuture<'_, Attempt> {
        Box::pin(std::future::ready(self.0.clone()))
    }
}

/// Runs one attempt within its bound. `what` begins every reason.
async fn bounded(what: &str, timeout: Duration, attempt: impl Future<Output = Result<(), String>>) -> Attempt {
    match tokio::time::timeout(timeout, attempt).await {
        Ok(Ok(())) => Attempt::Pass,
        Ok(Err(reason)) => Attempt::Fail(format!("{what}: {reason}")),
        Err(_) => Attempt::Fail(format!("{what}: no answer within {}", show(timeout))),
    }
}

/// An I/O error as an operator says it.
fn io_reason(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe => "connection reset".into(),
        std::io::ErrorKind::NotFound => "no such file".into(),
        std::io::ErrorKind::PermissionDenied => "permission denied".into(),
        std::io::ErrorKind::UnexpectedEof => "the answer broke off".into(),
        _ => error.to_string(),
    }
}
