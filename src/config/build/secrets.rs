//! `secrets`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Builder;
use super::stores::clean_vault_path;
use crate::config::decode::{At, Table};
use crate::config::fault::{Place, did_you_mean, shown_key};
use crate::config::model::{Locator, SecretConfig};
use crate::config::raw::stores::{RawSecret, RawStore};
use crate::secret::SecretName;

/// How often Vault is read unless told otherwise.
pub const POLL_VAULT: Duration = Duration::from_secs(60);
/// How often AWS is read unless told otherwise.
pub const POLL_AWS: Duration = Duration::from_secs(300);

impl Builder<'_> {
    pub(super) fn secret_name(&mut self, name: &At<String>) {
        self.name(
            "secret",
            name,
            |c| c.is_ascii_alphabetic() || c == '_',
            |c| c.is_ascii_alphanumeric() || "-_".contains(c),
            "it is a letter or '_', then letters, digits, '_' and '-': templates use it as secrets.NAME",
        );
    }

    pub(super) fn secret(
        &mut self,
        name: &At<String>,
        raw: &At<RawSecret>,
        stores: &Table<RawStore>,
    ) -> Option<SecretConfig> {
        let at = format!("secrets.{}", shown_key(name));
        let (store, kind) = self.store_of(&at, raw, stores)?;
        self.refuse_misfits(&at, raw, &store, kind);
        let locator = self.locator(&at, name, raw, kind)?;
        let default_poll = match kind {
            RawStore::File(_) => None,
            RawStore::Vault(_) => Some(POLL_VAULT),
            RawStore::Aws(_) => Some(POLL_AWS),
        };
        let expect = raw.expect.get().into_iter().flat_map(Table::sound);
        let verify = raw.verify.get().map(|verify| {
            let http = &verify.http;
            let at = format!("{at}.verify.http");
            self.request(&http.request, (http.url.0.clone(), http.url.place), http.timeout.0, &at)
        });
        Some(SecretConfig {
            name: SecretName::new(name.as_str()),
            store: Arc::from(store.as_str()),
            locator,
            poll: raw.poll.get().map(|poll| poll.0).or(default_poll),
            overlap: raw.overlap.0,
            max_age: raw.max_age.get().map(|age| age.0),
            expect: expect.map(|(field, pattern)| (field.value.clone(), pattern.0.clone())).collect(),
            verify,
        })
    }

    /// The store of a secret: the one it names, or the only one.
    fn store_of<'s>(
        &mut self,
        at: &str,
        raw: &At<RawSecret>,
        stores: &'s Table<RawStore>,
    ) -> Option<(String, &'s RawStore)> {
        let names = stores.0.iter().map(|(name, _)| name.as_str());
        if !raw.store.given() {
            if let [(name, store)] = stores.0.as_slice() {
                return Some((name.value.clone(), store.as_ref()?));
            }
            let message = format!("missing key 'store' in {at}");
            if !stores.0.is_empty() {
                let known: Vec<&str> = names.collect();
                self.d.fault_hint(raw.place, message, format!("known: {}", known.join(", ")));
            }
            return None;
        }
        let wanted = &raw.store.get()?.0;
        match stores.0.iter().find(|(name, _)| name.value == *wanted) {
            Some((name, store)) => Some((name.value.clone(), store.as_ref()?)),
            None => {
                let message = format!("{at}.store: no store {} is declared", raw.store.get()?.shown());
                self.d.fault_hint(raw.store.place(), message, did_you_mean(wanted, names));
                None
            }
        }
    }

    /// Refuses locator keys of another kind of store.
    fn refuse_misfits(&mut self, at: &str, raw: &RawSecret, store: &str, kind: &RawStore) {
        let (word, fit): (&str, &[&str]) = match kind {
            RawStore::File(_) => ("file", &["key"]),
            RawStore::Vault(_) => ("vault", &["path", "params"]),
            RawStore::Aws(_) => ("aws-secrets-manager", &["id", "stage", "version_id", "key"]),
        };
        let given: [(&str, Option<Place>); 6] = [
            ("key", raw.key.place),
            ("path", raw.path.place),
            ("params", raw.params.place),
            ("id", raw.id.place),
            ("stage", raw.stage.place),
            ("version_id", raw.version_id.place),
        ];
        for (key, place) in given {
            if let Some(place) = place.filter(|_| !fit.contains(&key)) {
                let message = format!("{at}: '{key}' does not fit the store '{}' of type {word}", shown_key(store));
                self.d.fault_hint(place, message, format!("it takes {}", fit.join(", ")));
            }
        }
    }

    fn locator(&mut self, at: &str, name: &At<String>, raw: &At<RawSecret>, kind: &RawStore) -> Option<Locator> {
        let own =
            |slot: &crate::config::decode::Slot<crate::config::scalar::Text>| slot.get().map(|text| text.0.clone());
        match kind {
            RawStore::File(_) => Some(Locator::File { key: own(&raw.key).unwrap_or_else(|| name.value.clone()) }),
            RawStore::Vault(_) => {
                if !raw.path.given() {
                    let hint = "write it as in `vault kv get`: mount first, no data/".to_owned();
                    self.d.fault_hint(raw.place, format!("missing key 'path' in {at}"), hint);
                }
                let path = self.vault_path(at, &raw.path.get()?.0, raw.path.place())?;
                let params = raw.params.get().into_iter().flat_map(Table::sound);
                let params: BTreeMap<_, _> = params.map(|(key, value)| (key.value.clone(), value.0.clone())).collect();
                Some(Locator::Vault { path, params })
            }
            RawStore::Aws(_) => {
                if !raw.id.given() {
                    self.d.fault(raw.place, format!("missing key 'id' in {at}"));
                }
                if raw.stage.given() && raw.version_id.given() {
                    self.d.fault(raw.version_id.place(), format!("{at}: stage and version_id exclude each other"));
                }
                let id = raw.id.get()?.0.clone();
                if id.is_empty() || id.contains(char::is_whitespace) {
                    self.d.fault(raw.id.place(), format!("{at}.id: not the name or ARN of a secret"));
                }
                let (stage, version_id) = (own(&raw.stage), own(&raw.version_id));
                Some(Locator::Aws { id, stage, version_id, key: own(&raw.key) })
            }
        }
    }

    fn vault_path(&mut self, at: &str, text: &str, place: Place) -> Option<String> {
        let path = clean_vault_path(text).filter(|path| path.contains('/'));
        let Some(path) = path else {
            let hint = "write it as in `vault kv get`: mount first, as in secret/app".to_owned();
            self.d.fault_hint(place, format!("{at}.path: not the path of a secret"), hint);
            return None;
        };
        if path.split('/').nth(1) == Some("data") && path.split('/').count() > 2 {
            let message = format!("{at}.path: data/ stands after the mount; as in `vault kv get`, it is left out");
            self.d.warn(place, message);
        }
        Some(path.to_owned())
    }
}
