//! Whether a staged generation may be published: `expect`, each file's `check`, each secret's `verify` request.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use futures_util::future::join_all;

use crate::config::model::{CheckCommand, TargetConfig};
use crate::probe::http::{Answer, ask};
use crate::process::{self, Exit, Inherit, RunError};
use crate::render::{RenderErrorKind, Renderer};
use crate::secret::Snapshot;
use crate::telemetry::mask;

/// Why a generation may not be published. Masked; never a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct VerifyError {
    /// True: the same inputs will be refused again. False: the surroundings failed, try again later.
    pub for_good: bool,
    /// What it means to a caller who does not try again.
    pub kind: VerifyErrorKind,
    /// For the operator.
    pub message: String,
}

/// What kind of failure a [`VerifyError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyErrorKind {
    /// A value, a file or a credential was looked at and refused (exit 65).
    Rejected,
    /// A secret has no value (exit 66).
    Missing,
    /// A check's program is not there (exit 66) or may not be run (exit 77).
    NoProgram {
        /// Whether the system denied it.
        denied: bool,
    },
    /// A check did not end in time, or was killed (exit 74).
    CheckBroken,
    /// Nobody answered a `verify` request, or the answer says nothing about the credential (exit 69).
    Unreachable,
}

impl VerifyError {
    fn new(kind: VerifyErrorKind, message: &str) -> Self {
        let for_good = matches!(kind, VerifyErrorKind::Rejected | VerifyErrorKind::Missing);
        Self { for_good, kind, message: mask::mask(message).into_owned() }
    }
}

/// Verifies a staged generation: what its values must look like, then every file's `check`, then every `verify` request.
/// `staged` are the staged files in the config's order. Publishes nothing; the caller owes that the snapshot's values are
/// registered with the mask. Each command and request is bounded by its own timeout.
///
/// # Errors
/// The first kind of failure; of several requests all that failed, and refused ones count more than unanswered ones.
pub async fn verify(
    renderer: &Renderer,
    snapshot: &Snapshot,
    staged: &[PathBuf],
    target: &TargetConfig,
    inherit: &Inherit,
    passed: &BTreeMap<String, String>,
) -> Result<(), VerifyError> {
    expect(renderer, snapshot)?;
    check(target, staged, inherit).await?;
    requests(renderer, snapshot, passed).await
}

/// Holds the values against the `expect` patterns.
///
/// # Errors
/// The first that does not match.
pub fn expect(renderer: &Renderer, snapshot: &Snapshot) -> Result<(), VerifyError> {
    renderer.expect(snapshot).map_err(|error| {
        let missing = error.kind == RenderErrorKind::MissingSecret;
        let kind = if missing { VerifyErrorKind::Missing } else { VerifyErrorKind::Rejected };
        VerifyError::new(kind, &error.to_string())
    })
}

/// Runs the `check` of every file that has one on its staged bytes, one after the other.
///
/// # Errors
/// The first that fails.
pub async fn check(target: &TargetConfig, staged: &[PathBuf], inherit: &Inherit) -> Result<(), VerifyError> {
    for (file, staged) in target.files.iter().zip(staged) {
        if let Some(check) = &file.check {
            check_one(check, &file.path, staged, inherit).await?;
        }
    }
    Ok(())
}

/// Runs one check on `staged`, which will be published at `path`. `{path}` in any argument stands for the staged file.
///
/// # Errors
/// Where it cannot be run, does not end in time, does not exit 0, or does not print what it must.
pub async fn check_one(check: &CheckCommand, path: &Path, staged: &Path, inherit: &Inherit) -> Result<(), VerifyError> {
    let place = staged.to_string_lossy();
    let argv: Vec<String> = check.run.iter().map(|argument| argument.replace("{path}", &place)).collect();
    let program = check.run.first().map_or("", String::as_str);
    let what = format!("{}: check `{program}`", path.display());
    let outcome = process::run(&argv, check.timeout, inherit).await.map_err(|error| {
        let kind = match &error {
            RunError::Start { source, .. } => {
                VerifyErrorKind::NoProgram { denied: source.kind() == std::io::ErrorKind::PermissionDenied }
            }
            RunError::TimedOut { .. } | RunError::Wait { .. } => VerifyErrorKind::CheckBroken,
        };
        VerifyError::new(kind, &format!("{what}: {error}"))
    })?;
    match outcome.exit {
        Exit::Code(0) => {}
        Exit::Code(_) => {
            let message = format!("{what} refused the new contents with {}", outcome.why());
            return Err(VerifyError::new(VerifyErrorKind::Rejected, &message));
        }
        // A kill says nothing about the contents: memory ran out, or somebody stopped it.
        Exit::Signal(_) => {
            let message = format!("{what} was ended by {}", outcome.why());
            return Err(VerifyError::new(VerifyErrorKind::CheckBroken, &message));
        }
    }
    match &check.stdout {
        Some(text) if !contains(&outcome.stdout, text.as_bytes()) => {
            let message = format!("{what} exited 0, but its output does not contain the expected text");
            Err(VerifyError::new(VerifyErrorKind::Rejected, &message))
        }
        _ => Ok(()),
    }
}

/// Asks the `verify` requests of the secrets in use, all at once, with the new values. `passed`: what the committed
/// generation passed by, see [`Renderer::verify_digests`]: the same is not asked again, so that a provider that is down
/// stops the rotations of its own credential only.
///
/// # Errors
/// Every refusal; where nobody refused, everybody who did not answer.
pub async fn requests(
    renderer: &Renderer,
    snapshot: &Snapshot,
    passed: &BTreeMap<String, String>,
) -> Result<(), VerifyError> {
    let rendered = renderer
        .verify_requests(snapshot)
        .map_err(|error| VerifyError::new(VerifyErrorKind::Rejected, &error.to_string()))?;
    let asked = rendered.into_iter().filter_map(|(name, request)| {
        if passed.get(name.as_str()).is_some_and(|before| *before == renderer.verify_digest(snapshot, &name, &request))
        {
            return None;
        }
        let written = renderer.verify_as_written(&name)?;
        Some(async move { (name, ask(request, written).await) })
    });
    let (mut refused, mut unreachable) = (Vec::new(), Vec::new());
    for (name, answer) in join_all(asked).await {
        match answer {
            Answer::Pass => {}
            Answer::Refused(reason) => refused.push(format!("secret {name}: verify refused the new value: {reason}")),
            Answer::Unreachable(reason) => unreachable.push(format!("secret {name}: verify got no answer: {reason}")),
        }
    }
    if !refused.is_empty() {
        return Err(VerifyError::new(VerifyErrorKind::Rejected, &refused.join("; ")));
    }
    if !unreachable.is_empty() {
        return Err(VerifyError::new(VerifyErrorKind::Unreachable, &unreachable.join("; ")));
    }
    Ok(())
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    needle.is_empty() || haystack.windows(needle.len()).any(|window| window == needle)
}
