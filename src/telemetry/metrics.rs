//! Metrics in OpenMetrics text. Gauges are made anew from the [`StatusView`] at each scrape, so that a secret or target
//! that is gone leaves no series behind; counters and durations are fed by events. No label holds a value of a secret.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::view::{OUTCOMES, STATES, SecretView, StatusView, TargetView};

/// What [`Metrics::encode`] gives, for the `Content-Type` header (OpenMetrics 1.0, which Prometheus reads since 2.5).
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// What [`plain`] gives.
pub const PLAIN_CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Counters = Family<Labels, Counter>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

/// The counters of one run of the agent. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Metrics {
    reads: Counters,
    renewals: Counters,
    errors: Counters,
    rotations: Counters,
    durations: Histograms,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            reads: Family::default(),
            renewals: Family::default(),
            errors: Family::default(),
            rotations: Family::default(),
            durations: Family::new_with_constructor(duration_histogram),
        }
    }
}

/// From a file written to a slow service coming up.
fn duration_histogram() -> Histogram {
    Histogram::new([0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0])
}

impl Metrics {
    /// A store answered a read.
    pub fn store_read(&self, store: &str) {
        self.reads.get_or_create(&vec![("store", store.into())]).inc();
    }

    /// A store renewed a lease.
    pub fn lease_renewed(&self, store: &str) {
        self.renewals.get_or_create(&vec![("store", store.into())]).inc();
    }

    /// A store failed to read, renew or revoke. `kind` is a fixed word: `unavailable`, `denied`, `missing`, `malformed`,
    /// `not_built`; never a message.
    pub fn store_failed(&self, store: &str, kind: &'static str) {
        self.errors.get_or_create(&vec![("store", store.into()), ("kind", kind.into())]).inc();
    }

    /// A rotation ended. `outcome` is one of [`OUTCOMES`]; `steps` are the times that its steps took, by fixed names
    /// (`stage`, `verify`, `publish`, `reload`, `probe`, …; `total` for the whole).
    pub fn rotation_ended(&self, target: &str, outcome: &str, steps: &[(&'static str, Duration)]) {
        self.rotations.get_or_create(&vec![("target", target.into()), ("outcome", outcome.into())]).inc();
        for (step, took) in steps {
            let labels = vec![("target", target.into()), ("step", (*step).into())];
            self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        }
    }

    /// Everything as OpenMetrics text, complete with its end mark.
    pub fn encode(&self, status: &StatusView) -> String {
        // A counter that appears with its first event hides that event from `rate()`: show zeros from the start.
        for target in &status.targets {
            for outcome in OUTCOMES {
                let labels = vec![("target", target.name.clone()), ("outcome", outcome.into())];
                drop(self.rotations.get_or_create(&labels));
            }
        }
        for secret in &status.secrets {
            drop(self.reads.get_or_create(&vec![("store", secret.store.clone())]));
        }
        let mut text = String::new();
        for registry in [self.counters(), store_requests(status), own_gauges(status), runbook_gauges(status)] {
            // Writing to a String does not fail.
            let _ = encode_registry(&mut text, &registry);
        }
        let _ = encode_eof(&mut text);
        text
    }

    fn counters(&self) -> Registry {
        let mut registry = Registry::with_prefix("leasehold");
        registry.register("store_reads", "Reads that a store answered", self.reads.clone());
        registry.register("store_renewals", "Leases that a store renewed", self.renewals.clone());
        registry.register("store_errors", "Requests that a store failed, by kind", self.errors.clone());
        registry.register("rotations", "Rotations that ended, by outcome", self.rotations.clone());
        let help = "How long the steps of rotations took";
        registry.register("rotation_duration_seconds", help, self.durations.clone());
        registry
    }
}

/// The same in Prometheus's older text format (version 0.0.4), for who does not ask for OpenMetrics: counters are named with
/// their suffix, there is neither an `info` type nor an end mark.
pub fn plain(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    let mut help = None;
    for line in open_metrics.lines() {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("EOF" | "UNIT"), ..) => {}
            // What the family is called is known only from its type, which follows.
            (Some("#"), Some("HELP"), Some(_), about) => help = about,
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                let (name, kind) = match kind {
                    "counter" => (format!("{name}_total"), kind),
                    "info" => (format!("{name}_info"), "gauge"),
                    "unknown" => (name.to_owned(), "untyped"),
                    kind => (name.to_owned(), kind),
                };
                if let Some(about) = help.take() {
                    text += &format!("# HELP {name} {about}\n");
                }
                text += &format!("# TYPE {name} {kind}\n");
            }
            _ => {
                text += line;
                text.push('\n');
            }
        }
    }
    text
}

/// The stores count these themselves.
fn store_requests(status: &StatusView) -> Registry {
    let requests = Counters::default();
    for store in &status.stores {
        for (request, count) in &store.calls {
            let labels = vec![("store", store.name.clone()), ("request", request.clone())];
            requests.get_or_create(&labels).inc_by(*count);
        }
    }
    let mut registry = Registry::with_prefix("leasehold");
    registry.register("store_requests", "Requests to a store that is paid by the request", requests);
    registry
}

fn own_gauges(status: &StatusView) -> Registry {
    let mut registry = Registry::with_prefix("leasehold");
    let build = Info::new(vec![("version", status.version.clone())]);
    registry.register("build", "The version of the agent", build);
    let started = Gauge::<f64, AtomicU64>::default();
    started.set(seconds(status.started_at));
    registry.register("start_timestamp_seconds", "When the agent started", started);
    register_secrets(&mut registry, status);
    register_targets(&mut registry, status);
    registry
}

/// One family of gauges: a point for each item that has a value.
fn family<'a, T: 'a>(
    items: impl Iterator<Item = (&'a String, &'a T)>,
    label: &'static str,
    value: impl Fn(&T) -> Option<f64>,
) -> Gauges {
    let gauges = Gauges::default();
    for (name, item) in items {
        if let Some(value) = value(item) {
            gauges.get_or_create(&vec![(label, name.clone())]).set(value);
        }
    }
    gauges
}

fn register_secrets(registry: &mut Registry, status: &StatusView) {
    let now = status.now;
    let mut add = |name: &str, help: &str, value: &dyn Fn(&SecretView) -> Option<f64>| {
        registry.register(name, help, family(status.secrets.iter().map(|s| (&s.name, s)), "secret", value));
    };
    let help = "Age of the version in use";
    add("secret_age_seconds", help, &|s| s.changed_at.map(|at| seconds(now) - seconds(at)));
    let help = "When the version in use was made, or else first seen";
    add("secret_last_change_timestamp_seconds", help, &|s| s.changed_at.map(seconds));
    let help = "When the secret was last read with success";
    add("secret_last_read_timestamp_seconds", help, &|s| s.read_at.map(seconds));
    let help = "When the secret is read next";
    add("secret_next_read_timestamp_seconds", help, &|s| s.next_read_at.map(seconds));
    let help = "When the lease of the version in use ends";
    add("secret_lease_expiry_timestamp_seconds", help, &|s| s.expires_at.filter(|_| s.leased).map(seconds));
    let help = "1 where the version in use is older than max_age";
    add("secret_overdue", help, &|s| s.due_at().map(|due| flag(due <= now)));
    let help = "1 where the last reading failed";
    add("secret_failing", help, &|s| Some(flag(s.error.is_some())));
    let versions = Gauges::default();
    for secret in &status.secrets {
        if let Some(version) = &secret.version {
            let labels =
                vec![("secret", secret.name.clone()), ("store", secret.store.clone()), ("version", version.clone())];
            versions.get_or_create(&labels).set(1.0);
        }
    }
    registry.register("secret_version_info", "The version in use, as the store names it", versions);
}

fn register_targets(registry: &mut Registry, status: &StatusView) {
    let mut add = |name: &str, help: &str, value: &dyn Fn(&TargetView) -> Option<f64>| {
        registry.register(name, help, family(status.targets.iter().map(|t| (&t.name, t)), "target", value));
    };
    add("generation", "The generation that is published", &|t| t.generation.map(|n| n as f64));
    add("held", "1 where the target is held where it is", &|t| Some(flag(t.held)));
    add("degraded", "1 where going back failed", &|t| Some(flag(t.degraded)));
    add("stale", "1 where the target serves although its secrets cannot be read", &|t| Some(flag(t.stale)));
    let help = "1 where the last rotation ended as committed";
    add("last_rotation_successful", help, &|t| t.last_rotation.as_ref().map(|r| flag(r.outcome == "committed")));
    let help = "When a rotation last ended as committed";
    add("last_rotation_success_timestamp_seconds", help, &|t| t.last_success_at.map(seconds));
    let states = Gauges::default();
    for target in &status.targets {
        for state in STATES {
            let labels = vec![("target", target.name.clone()), ("state", state.to_owned())];
            states.get_or_create(&labels).set(flag(target.state == state));
        }
    }
    registry.register("target_state", "1 for the state that the target is in", states);
}

/// The names that the runbooks' alerts already use: without the agent's prefix. Where several secrets share a path, the
/// one that needs care first is shown.
fn runbook_gauges(status: &StatusView) -> Registry {
    let (rotated, ttl, expiry, certificates) =
        (Gauges::default(), Gauges::default(), Gauges::default(), Gauges::default());
    for secret in &status.secrets {
        let path = || vec![("path", secret.path.clone())];
        if let Some(at) = secret.changed_at {
            lower(&rotated, path(), seconds(at));
        }
        if let Some(at) = secret.expires_at.filter(|_| secret.leased) {
            lower(&ttl, path(), (seconds(at) - seconds(status.now)).max(0.0));
        }
        if let Some(at) = secret.due_at() {
            lower(&expiry, vec![("secret", secret.name.clone())], seconds(at));
        }
    }
    for (path, at) in status.targets.iter().flat_map(|target| &target.certificates) {
        lower(&certificates, vec![("path", path.clone())], seconds(*at));
    }
    let mut registry = Registry::default();
    registry.register("vault_secret_rotation_timestamp", "When the secret at this path last changed", rotated);
    registry.register("vault_lease_ttl_seconds", "What is left of the lease of the secret at this path", ttl);
    registry.register("litellm_api_key_expiry_timestamp", "Last change of the secret and its max_age", expiry);
    let help = "Earliest notAfter of the certificates in this rendered file";
    registry.register("ssl_certificate_expiry_timestamp", help, certificates);
    registry
}

fn lower(gauges: &Gauges, labels: Labels, value: f64) {
    let known = gauges.get(&labels).map(|gauge| gauge.get());
    gauges.get_or_create(&labels).set(known.map_or(value, |known| known.min(value)));
}

fn seconds(at: Timestamp) -> f64 {
    at.as_millisecond() as f64 / 1000.0
}

fn flag(on: bool) -> f64 {
    if on { 1.0 } else { 0.0 }
}
