//! `health` of a target, and HTTP requests.

use std::time::Duration;

use super::Builder;
use crate::config::decode::{Record, Slot, Table};
use crate::config::fault::{Place, shown_key};
use crate::config::model::{Confirm, HealthCheck, HealthConfig, HttpRequest};
use crate::config::raw::process::RawReload;
use crate::config::raw::targets::{RawHealth, RawHttpHealth, RawPolicy, RawRequest, RawSystemdHealth, RawTarget};
use crate::config::scalar::Tera;

impl Builder<'_> {
    pub(super) fn health(&mut self, target: &RawTarget, at: &str) -> HealthConfig {
        let at = format!("{at}.health");
        self.doubt_handover(target, &at);
        let (check, policy) = match target.health.get() {
            None | Some(RawHealth::None(_)) => return always(),
            Some(RawHealth::Http(raw)) => (self.http(raw, target, &at), &raw.policy),
            Some(RawHealth::Tcp(raw)) => (HealthCheck::Tcp(raw.address.0.clone()), &raw.policy),
            Some(RawHealth::Command(raw)) => (HealthCheck::Command(raw.run.0.clone()), &raw.policy),
            Some(RawHealth::Systemd(raw)) => (self.systemd(raw, target, &at), &raw.policy),
        };
        self.policy(check, policy, &at)
    }

    /// With handover only `path` asks the new process alone.
    fn doubt_handover(&mut self, target: &RawTarget, at: &str) {
        if !Self::hands_over(target) {
            return;
        }
        match target.health.get() {
            Some(RawHealth::Http(raw)) if raw.path.given() || !raw.url.given() => {}
            None if target.health.given() => {}
            None | Some(RawHealth::None(_)) => {
                let place = if target.health.given() { target.health.place() } else { target.reload.place() };
                let text = "with on_change: handover and no check, a new process that lives for a second takes the old one's place";
                self.d.warn(place, format!("{at}: {text}; give health a type: http and a path"));
            }
            Some(_) => {
                let text = "with on_change: handover this may be answered by the old process, which is still there";
                self.d.warn(
                    target.health.place(),
                    format!("{at}: {text}; type: http with a path asks the new one alone"),
                );
            }
        }
    }

    fn policy(&mut self, check: HealthCheck, raw: &RawPolicy, at: &str) -> HealthConfig {
        let successes = u32::try_from(raw.successes.0).unwrap_or(u32::MAX);
        let needed = raw.interval.0.saturating_mul(successes.saturating_sub(1));
        if needed >= raw.within.0 {
            let message = format!("{at}: {successes} passes, interval apart, do not fit within");
            self.d.fault_hint(raw.within.place, message, "make within longer, or successes fewer".to_owned());
        }
        HealthConfig { check, interval: raw.interval.0, timeout: raw.timeout.0, within: raw.within.0, successes }
    }

    fn http(&mut self, raw: &RawHttpHealth, target: &RawTarget, at: &str) -> HealthCheck {
        let timeout = raw.policy.timeout.0;
        let mut request = self.asked((&raw.url, &raw.path, raw.place()), &raw.request, timeout, target, at);
        if let Some(confirm) = raw.confirm.get() {
            let at = format!("{at}.confirm");
            let place = raw.confirm.place();
            let asked = self.asked((&confirm.url, &confirm.path, place), &confirm.request, timeout, target, &at);
            if asked.json.is_empty() && asked.body_contains.is_none() {
                let hint = "give it json: {/data/0/model_info/snapshot: '{{ snapshot }}'}, or body_contains".to_owned();
                self.d.fault_hint(place, format!("{at}: nothing in the answer is looked at"), hint);
            }
            let times = u32::try_from(confirm.times.0).unwrap_or(u32::MAX);
            request.confirm = Some(Box::new(Confirm { request: asked, times }));
        }
        HealthCheck::Http(request)
    }

    /// A request to a `url`, or to a `path` of the new process alone.
    fn asked(
        &mut self,
        (url, path, place): (&Slot<Tera>, &Slot<Tera>, Place),
        raw: &RawRequest,
        timeout: Duration,
        target: &RawTarget,
        at: &str,
    ) -> HttpRequest {
        match (url.given(), path.given()) {
            (true, true) => self.d.fault(path.place(), format!("{at}: url and path exclude each other")),
            (false, false) => self.d.fault(place, format!("missing key 'url' in {at}")),
            (false, true) if !Self::hands_over(target) => {
                let message = format!("{at}.path: only with reload.on_change: handover");
                self.d.fault_hint(path.place(), message, "give a url".to_owned());
            }
            _ => {}
        }
        if let Some(text) = path.get() {
            if !text.0.starts_with('/') {
                self.d.fault(path.place(), format!("{at}.path: begins with '/'"));
            }
            return self.request(raw, (text.0.clone(), Place::default()), timeout, at);
        }
        let text = url.get().map(|url| url.0.clone()).unwrap_or_default();
        self.request(raw, (text, url.place()), timeout, at)
    }

    fn systemd(&mut self, raw: &RawSystemdHealth, target: &RawTarget, at: &str) -> HealthCheck {
        let at = format!("{at}.unit");
        let unit = match (raw.unit.get(), target.reload.get()) {
            (Some(unit), _) => self.unit(unit, raw.unit.place(), &at),
            (None, Some(RawReload::Systemd(reload))) => self.unit(&reload.unit, reload.unit.place, &at),
            _ => {
                if !raw.unit.given() {
                    self.d.fault(raw.place(), format!("missing key 'unit' in {}", at.trim_end_matches(".unit")));
                }
                String::new()
            }
        };
        HealthCheck::Systemd(unit)
    }

    /// An HTTP request. A URL without a place is not checked (it is empty, or a path).
    pub(super) fn request(
        &mut self,
        raw: &RawRequest,
        (url, place): (String, Place),
        timeout: Duration,
        at: &str,
    ) -> HttpRequest {
        let template = url.contains("{{") || url.contains("{%");
        match url.strip_prefix("unix:") {
            _ if template || place == Place::default() => {}
            Some(path) if path.starts_with('/') => {}
            Some(_) => {
                let message = format!("{at}.url: not a usable URL");
                self.d.fault_hint(place, message, "write it as unix:/path/to/socket:/request/path".to_owned());
            }
            None => self.url(&url, &["http", "https"], place, &format!("{at}.url")),
        }
        self.headers(raw, at);
        let json = raw.json.get().into_iter().flat_map(Table::sound);
        for (pointer, _) in raw.json.get().into_iter().flat_map(|table| &table.0) {
            if !is_pointer(pointer) {
                let message = format!("{at}.json: '{}' is no JSON pointer", shown_key(pointer));
                self.d.fault_hint(pointer.place, message, "write it as /status/db (RFC 6901)".to_owned());
            }
        }
        let headers = raw.headers.get().into_iter().flat_map(Table::sound);
        HttpRequest {
            url,
            method: raw.method.0.to_owned(),
            headers: headers.map(|(name, value)| (name.value.clone(), value.0.clone())).collect(),
            body: raw.body.get().map(|body| body.0.clone()),
            status: raw.status.0.iter().filter_map(|status| u16::try_from(status.0).ok()).collect(),
            body_contains: raw.body_contains.get().map(|text| text.0.clone()),
            json: json.map(|(pointer, value)| (pointer.value.clone(), value.0.clone())).collect(),
            ca_cert: self.maybe_path(&raw.ca_cert),
            timeout,
            confirm: None,
        }
    }

    fn headers(&mut self, raw: &RawRequest, at: &str) {
        let mut seen: Vec<String> = Vec::new();
        for (name, _) in raw.headers.get().into_iter().flat_map(|table| &table.0) {
            if reqwest::header::HeaderName::from_bytes(name.as_bytes()).is_err() {
                self.d.fault(name.place, format!("{at}.headers: '{}' cannot name a header", shown_key(name)));
            }
            let lower = name.to_ascii_lowercase();
            if seen.contains(&lower) {
                self.d.fault(name.place, format!("{at}.headers: '{}' stands twice", shown_key(name)));
            }
            seen.push(lower);
        }
    }
}

/// RFC 6901: empty, or parts that each begin with `/`; `~` only as `~0` and `~1`.
fn is_pointer(text: &str) -> bool {
    (text.is_empty() || text.starts_with('/')) && text.split('~').skip(1).all(|part| part.starts_with(['0', '1']))
}

fn always() -> HealthConfig {
    HealthConfig {
        check: HealthCheck::None,
        interval: Duration::from_secs(1),
        timeout: Duration::from_secs(5),
        within: Duration::from_secs(60),
        successes: 1,
    }
}
