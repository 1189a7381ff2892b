//! `stores`.

use std::time::Duration;

use reqwest::Url;

use super::Builder;
use crate::config::decode::{At, Slot};
use crate::config::fault::Place;
use crate::config::model::{AwsRegion, AwsStore, FileStore, Limits, StoreConfig, TlsConfig, VaultAuth, VaultStore};
use crate::config::raw::stores::{RawAuth, RawAws, RawStore, RawTls, RawVault};
use crate::config::scalar::Text;
use crate::secret::SecretBytes;

/// Bound on one request to Vault unless told otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);

fn owned(slot: &Slot<Text>) -> Option<String> {
    slot.get().map(|text| text.0.clone())
}

impl Builder<'_> {
    pub(super) fn store_name(&mut self, name: &At<String>) {
        self.name(
            "store",
            name,
            |c| c.is_ascii_alphabetic(),
            |c| c.is_ascii_alphanumeric() || "-_.+".contains(c),
            "it is a letter, then letters, digits, '-', '_', '.' and '+'",
        );
        if ["http", "https"].contains(&name.as_str()) {
            let message = format!("'{}' cannot name a store", name.value);
            let hint = "in a resolve file, every URL would then be a reference".to_owned();
            self.d.fault_hint(name.place, message, hint);
        }
    }

    pub(super) fn store(&mut self, name: &At<String>, raw: &At<RawStore>) -> Option<StoreConfig> {
        let at = format!("stores.{}", name.value);
        match &raw.value {
            RawStore::File(file) => Some(StoreConfig::File(FileStore { path: self.path(&file.path) })),
            RawStore::Vault(vault) => Some(StoreConfig::Vault(Box::new(self.vault(vault, &at)?))),
            RawStore::Aws(aws) => Some(StoreConfig::Aws(Box::new(self.aws(aws, &at)))),
        }
    }

    /// A variable as OpenBao's CLI reads it: `BAO_…`, else `VAULT_…`, which is all that Vault's reads.
    fn env(&self, name: &str) -> Option<String> {
        let get = |prefix: &str| (self.inputs.env)(&format!("{prefix}_{name}")).filter(|value| !value.is_empty());
        get("BAO").or_else(|| get("VAULT"))
    }

    /// VAULT_SKIP_VERIFY, as Go's strconv.ParseBool has it.
    fn skip_verify(&mut self, place: Place, at: &str) -> bool {
        match self.env("SKIP_VERIFY").as_deref() {
            None | Some("0" | "f" | "F" | "false" | "False" | "FALSE") => false,
            Some("1" | "t" | "T" | "true" | "True" | "TRUE") => {
                let text = "VAULT_SKIP_VERIFY is set: the server's certificate is NOT verified, and anybody between may take \
                            the token and every secret; unset it, and set tls.ca_cert";
                self.d.warn(place, format!("{at}: {text}"));
                true
            }
            Some(_) => {
                self.d.fault(place, format!("{at}: VAULT_SKIP_VERIFY is neither true nor false"));
                false
            }
        }
    }

    /// VAULT_CLIENT_TIMEOUT: seconds, or a number with a unit.
    fn client_timeout(&mut self, place: Place, at: &str) -> Option<Duration> {
        let text = self.env("CLIENT_TIMEOUT")?;
        let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let factor = match unit {
            "ms" => Some(1),
            "" | "s" => Some(1000),
            "m" => Some(60_000),
            "h" => Some(3_600_000),
            _ => None,
        };
        let millis = digits.parse::<u64>().ok().zip(factor).and_then(|(n, factor)| n.checked_mul(factor));
        if millis.is_none_or(|millis| millis == 0) {
            self.d.fault(place, format!("{at}: VAULT_CLIENT_TIMEOUT is not a duration; write it as 30s"));
        }
        millis.map(Duration::from_millis)
    }

    fn vault(&mut self, raw: &RawVault, at: &str) -> Option<VaultStore> {
        let (address, place, what) = match (raw.address.get(), raw.address.given()) {
            (Some(address), _) => (Some(address.0.clone()), raw.address.place(), format!("{at}.address")),
            (None, true) => return None,
            (None, false) => (self.env("ADDR"), raw.place, format!("{at}: VAULT_ADDR")),
        };
        let Some(address) = address else {
            self.d.fault(raw.place, format!("missing key 'address' in {at}, and VAULT_ADDR is not set"));
            return None;
        };
        let address = address.trim_end_matches('/').to_owned();
        match address.strip_prefix("unix://") {
            Some(path) if path.starts_with('/') => {}
            Some(_) => self.d.fault(place, format!("{what}: a unix address is unix:///path")),
            None => self.url(&address, &["http", "https"], place, &what),
        }
        let tls = self.tls(&raw.tls, at);
        let tls = TlsConfig { skip_verify: self.skip_verify(raw.place, at), ..tls };
        let auth = self.auth(raw.auth.get(), raw.place, &format!("{at}.auth"));
        if matches!(auth, VaultAuth::Cert { .. })
            && tls.client_cert.is_none()
            && raw.tls.given() == raw.tls.get().is_some()
        {
            let message = format!("{at}.auth: type cert needs tls.client_cert and tls.client_key");
            self.d.fault(raw.auth.place(), message);
        }
        let namespace = owned(&raw.namespace).or_else(|| self.env("NAMESPACE"));
        let namespace = namespace.map(|name| name.trim_matches('/').to_owned()).filter(|name| !name.is_empty());
        let limits = raw.limits.get().map_or(Limits { in_flight: 8, per_second: 20 }, |limits| Limits {
            in_flight: usize::try_from(limits.in_flight.0).unwrap_or(1),
            per_second: u32::try_from(limits.per_second.0).unwrap_or(1),
        });
        let (on_stop, lease_check) = (*raw.on_stop, raw.lease_check.0);
        let timeout = raw.timeout.get().map(|timeout| timeout.0).or_else(|| self.client_timeout(raw.place, at));
        let timeout = timeout.unwrap_or(TIMEOUT);
        Some(VaultStore { address, namespace, tls, auth, on_stop, lease_check, limits, timeout })
    }

    fn tls(&mut self, slot: &Slot<RawTls>, at: &str) -> TlsConfig {
        let raw = slot.get();
        let path = |own: Option<&Slot<_>>, variable: &str| {
            own.and_then(|own| self.maybe_path(own)).or_else(|| self.env(variable).map(Into::into))
        };
        let ca_path = self.env("CAPATH").map(Into::into);
        let tls = TlsConfig {
            ca_path,
            skip_verify: false,
            ca_cert: path(raw.map(|raw| &raw.ca_cert), "CACERT"),
            client_cert: path(raw.map(|raw| &raw.client_cert), "CLIENT_CERT"),
            client_key: path(raw.map(|raw| &raw.client_key), "CLIENT_KEY"),
            server_name: raw.and_then(|raw| owned(&raw.server_name)).or_else(|| self.env("TLS_SERVER_NAME")),
        };
        if tls.client_cert.is_some() != tls.client_key.is_some() {
            self.d.fault(slot.place(), format!("{at}.tls: client_cert and client_key go together"));
        }
        tls
    }

    fn auth(&mut self, raw: Option<&RawAuth>, place: Place, at: &str) -> VaultAuth {
        match raw {
            None => VaultAuth::Token { token: self.given_token(place, at) },
            Some(RawAuth::Token(raw)) if raw.token.given() => VaultAuth::Token { token: self.token(&raw.token, at) },
            Some(RawAuth::Token(_)) => VaultAuth::Token { token: self.given_token(place, at) },
            Some(RawAuth::TokenFile(raw)) => VaultAuth::TokenFile { path: self.path(&raw.path) },
            Some(RawAuth::AppRole(raw)) => {
                if *raw.wrapped && !raw.secret_id_file.given() {
                    self.d.fault(raw.wrapped.place, format!("{at}: wrapped needs secret_id_file"));
                }
                VaultAuth::AppRole {
                    mount: self.mount(&raw.mount, at),
                    role_id_file: self.path(&raw.role_id_file),
                    secret_id_file: self.maybe_path(&raw.secret_id_file),
                    wrapped: *raw.wrapped,
                }
            }
            Some(RawAuth::Kubernetes(raw)) => VaultAuth::Jwt {
                mount: self.mount(&raw.mount, at),
                role: raw.role.0.clone(),
                token_file: self.path(&raw.token_file),
            },
            Some(RawAuth::Jwt(raw)) => VaultAuth::Jwt {
                mount: self.mount(&raw.mount, at),
                role: raw.role.0.clone(),
                token_file: self.path(&raw.token_file),
            },
            Some(RawAuth::Cert(raw)) => VaultAuth::Cert { mount: self.mount(&raw.mount, at), name: owned(&raw.name) },
            Some(RawAuth::Userpass(raw)) => VaultAuth::Userpass {
                mount: self.mount(&raw.mount, at),
                username: raw.username.0.clone(),
                password_file: self.path(&raw.password_file),
            },
            Some(RawAuth::Aws(raw)) => VaultAuth::AwsIam {
                mount: self.mount(&raw.mount, at),
                role: owned(&raw.role),
                header_value: owned(&raw.header_value),
                region: self.region(&raw.region, at),
            },
        }
    }

    fn region(&mut self, raw: &Slot<Text>, at: &str) -> Option<AwsRegion> {
        let region = owned(raw)?;
        if region.is_empty() || !region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
            self.d.fault(raw.place(), format!("{at}: region is one of AWS's (eu-west-1), or auto"));
        }
        Some(if region == "auto" { AwsRegion::Auto } else { AwsRegion::Named(region) })
    }

    /// VAULT_TOKEN.
    fn given_token(&mut self, place: Place, at: &str) -> Option<SecretBytes> {
        let token = self.env("TOKEN")?;
        let token = token.trim();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            self.d.fault(place, format!("{at}: VAULT_TOKEN holds what no token holds (spaces, line breaks)"));
        }
        Some(SecretBytes::from(token))
    }

    fn token(&mut self, slot: &Slot<Text>, at: &str) -> Option<SecretBytes> {
        let token = slot.get()?.0.trim();
        if token.is_empty() || !token.bytes().all(|b| b.is_ascii_graphic()) {
            self.d.fault(
                slot.place(),
                format!("{at}.token is empty, or holds what no token holds (spaces, line breaks)"),
            );
        }
        Some(SecretBytes::from(token))
    }

    fn mount(&mut self, text: &At<Text>, at: &str) -> String {
        let mount = text.0.trim_matches('/').trim_start_matches("auth/");
        if clean_vault_path(mount).is_none() {
            self.d.fault(text.place, format!("{at}.mount: not the path of an auth method"));
        }
        mount.to_owned()
    }

    fn aws(&mut self, raw: &RawAws, at: &str) -> AwsStore {
        let queue = raw.events.get().map(|events| &events.queue_url);
        if let Some(queue) = queue {
            self.url(&queue.0, &["http", "https"], queue.place, &format!("{at}.events.queue_url"));
        }
        if let Some(endpoint) = raw.endpoint_url.get() {
            self.url(&endpoint.0, &["http", "https"], raw.endpoint_url.place(), &format!("{at}.endpoint_url"));
        }
        let regions = raw.regions.get().map(Vec::as_slice).unwrap_or_default();
        let one = raw.region.get().map(|region| (region, raw.region.place()));
        for (region, place) in one.into_iter().chain(regions.iter().map(|region| (&region.value, region.place))) {
            if region.0.is_empty() || !region.0.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
                self.d.fault(place, format!("{at}: not a region; write it as eu-central-1"));
            }
        }
        if let Some(arn) = raw.role_arn.get()
            && !(arn.0.starts_with("arn:") && arn.0.contains(":role/"))
        {
            let message = format!("{at}.role_arn: not a role's ARN; write it as arn:aws:iam::123456789012:role/NAME");
            self.d.fault(raw.role_arn.place(), message);
        }
        AwsStore {
            region: owned(&raw.region),
            regions: regions.iter().map(|region| region.0.clone()).collect(),
            profile: owned(&raw.profile),
            role_arn: owned(&raw.role_arn),
            endpoint_url: owned(&raw.endpoint_url),
            queue_url: queue.map(|queue| queue.0.clone()),
            timeout: raw.timeout.0,
        }
    }

    /// Checks a URL. The URL itself is not shown: it may hold what `${VAR}` stood for.
    pub(super) fn url(&mut self, text: &str, schemes: &[&str], place: Place, at: &str) {
        let fault = match Url::parse(text) {
            Err(error) => error.to_string(),
            Ok(url) if !schemes.contains(&url.scheme()) => format!("it begins with {}://", schemes.join(":// or ")),
            Ok(url) if !url.has_host() => "it names no host".to_owned(),
            Ok(url) if !url.username().is_empty() || url.password().is_some() => "it holds credentials".to_owned(),
            Ok(url) if url.fragment().is_some() => "it holds a fragment (#…)".to_owned(),
            Ok(_) => return,
        };
        self.d.fault_hint(place, format!("{at}: not a usable URL"), fault);
    }
}

/// A path of Vault without slashes at its ends. None where a part is empty, `.` or `..`, or holds `?`, `#`, or
/// characters that no URL path holds.
pub fn clean_vault_path(path: &str) -> Option<&str> {
    let path = path.strip_prefix('/').unwrap_or(path);
    let path = path.strip_suffix('/').unwrap_or(path);
    let part = |part: &str| {
        !["", ".", ".."].contains(&part) && !part.contains(['?', '#', '\\']) && !part.contains(char::is_control)
    };
    path.split('/').all(part).then_some(path)
}
