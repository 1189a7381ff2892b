//! What a target's config is to the machine, to its reload and to its probe.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Assignment;
use crate::config::model::{ReloadConfig, TargetConfig};
use crate::probe;
use crate::process::Inherit;
use crate::reload;
use crate::rotation::Policy;

pub(super) fn policy(target: &TargetConfig, files_only: bool) -> Policy {
    let supervised = matches!(target.reload, ReloadConfig::Exec(_)) && !files_only;
    Policy { on_unhealthy: target.on_unhealthy, keep: target.keep, supervised }
}

pub(super) fn context_for(
    assignment: &Assignment,
    shared: &reload::Context,
    stop: &CancellationToken,
) -> reload::Context {
    let target = &assignment.target;
    let inherit = Inherit { withhold: assignment.withhold.clone(), pass: target.pass_env.clone() };
    reload::Context { target: Arc::clone(&target.name), inherit, stop: stop.clone(), ..shared.clone() }
}

pub(super) fn probe_context(context: &reload::Context) -> probe::Context {
    probe::Context { inherit: context.inherit.clone(), bus: context.bus.clone() }
}
