//! PKI: real certificates (P-256), a role's TTLs, no lease.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData, SerialNumber};
use serde_json::{Map, Value, json};
use x509_cert::der::Decode;

use super::state::{Answer, Call, Op, Reply, SYSTEM_TTL, nothing, refuse};
use super::values::{list, pem_body, span, text};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    ends: Timestamp,
}

#[derive(Default)]
pub struct Pki {
    authority: Option<Authority>,
    roles: BTreeMap<String, Map<String, Value>>,
    issued: BTreeMap<String, String>,
}

/// The public key of a signing request, and the common name in it.
struct Public(Vec<u8>, String);

impl PublicKeyData for Public {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl Pki {
    pub fn answer(&mut self, call: &Call<'_>) -> Answer {
        match (call.op, call.parts().as_slice()) {
            (Op::Write, ["root", "generate", "internal"]) => self.generate(call),
            (Op::Write, ["roles", name]) => {
                self.roles.insert((*name).to_owned(), call.body.clone());
                Ok(Reply::Data(json!(call.body)))
            }
            (Op::Write, ["issue", name]) => self.issue(name, None, call),
            (Op::Write, ["sign", name]) => match public_key(&text(call.body, "csr")) {
                Some(key) => self.issue(name, Some(key), call),
                None => refuse(400, "certificate request could not be parsed"),
            },
            (Op::Read, ["cert", serial]) => match self.issued.get(*serial) {
                Some(pem) => Ok(Reply::Data(json!({ "certificate": pem, "revocation_time": 0 }))),
                None => nothing(),
            },
            _ => nothing(),
        }
    }

    fn generate(&mut self, call: &Call<'_>) -> Answer {
        let ttl = span(call.body, "ttl");
        let ends = call.now + if ttl.is_zero() { SYSTEM_TTL } else { ttl };
        let mut params = lifetime(&text(call.body, "common_name"), Vec::new(), call.now, ends);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem().trim_end().to_owned();
        self.authority = Some(Authority { issuer: Issuer::new(params, key), pem: pem.clone(), ends });
        Ok(Reply::Data(json!({ "certificate": pem, "issuing_ca": pem, "expiration": ends.as_second() })))
    }

    fn issue(&mut self, role: &str, key: Option<Public>, call: &Call<'_>) -> Answer {
        let Some(role) = self.roles.get(role) else { return refuse(400, &format!("unknown role: {role}")) };
        let Some(authority) = &self.authority else {
            return refuse(500, "error fetching CA certificate: no default issuer currently configured");
        };
        // A request's own name counts (the role's `use_csr_common_name` is true by default).
        let named = key.as_ref().map(|key| key.1.clone()).filter(|name| !name.is_empty());
        let common_name = named.unwrap_or_else(|| text(call.body, "common_name"));
        if let Err(refusal) = allowed(role, &common_name) {
            return refuse(400, &refusal);
        }
        let or = |value: Duration, other: Duration| if value.is_zero() { other } else { value };
        let max = or(span(role, "max_ttl"), call.tuning.max);
        let ttl = or(span(call.body, "ttl"), or(span(role, "ttl"), call.tuning.default)).min(max);
        let ends = call.now + ttl;
        if ends > authority.ends {
            return refuse(
                400,
                "cannot satisfy request, as TTL would result in notAfter that is beyond the expiration of the CA certificate",
            );
        }
        let mut names = vec![common_name.clone()];
        names.extend(list(call.body, "alt_names"));
        names.extend(list(call.body, "ip_sans"));
        let mut params = lifetime(&common_name, names, call.now, ends);
        let mut serial = [0_u8; 16];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut serial).unwrap();
        serial[0] &= 0x7f;
        serial[0] |= 1;
        params.serial_number = Some(SerialNumber::from_slice(&serial));
        let serial = serial.map(|byte| format!("{byte:02x}")).join(":");
        let mut data = json!({
            "serial_number": serial, "expiration": ends.as_second(), "issuing_ca": authority.pem, "ca_chain": [authority.pem],
        });
        let pem = match key {
            Some(public) => params.signed_by(&public, &authority.issuer).unwrap().pem(),
            None => {
                let key = KeyPair::generate().unwrap();
                data["private_key"] = json!(key.serialize_pem().trim_end());
                data["private_key_type"] = json!("ec");
                params.signed_by(&key, &authority.issuer).unwrap().pem()
            }
        };
        data["certificate"] = json!(pem.trim_end());
        self.issued.insert(serial, pem.trim_end().to_owned());
        Ok(Reply::Data(data))
    }
}

fn allowed(role: &Map<String, Value>, name: &str) -> Result<(), String> {
    let domains = list(role, "allowed_domains");
    let below = |domain: &String| name.ends_with(&format!(".{domain}")) || name == domain;
    if role.get("allow_any_name") == Some(&Value::Bool(true)) || domains.iter().any(below) {
        return Ok(());
    }
    Err(format!("common name {name} not allowed by this role"))
}

fn lifetime(name: &str, names: Vec<String>, now: Timestamp, ends: Timestamp) -> CertificateParams {
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    let date = |at: Timestamp| (std::time::UNIX_EPOCH + Duration::from_secs(at.as_second().unsigned_abs())).into();
    // As Vault does: valid from half a minute ago.
    params.not_before = date(now - Duration::from_secs(30));
    params.not_after = date(ends);
    params
}

fn public_key(csr: &str) -> Option<Public> {
    let request = x509_cert::request::CertReq::from_der(&pem_body(csr)?).ok()?;
    let subject = request.info.subject.to_string();
    let name = subject.split(',').find_map(|part| part.trim().strip_prefix("CN=")).unwrap_or_default().to_owned();
    Some(Public(request.info.public_key.subject_public_key.raw_bytes().to_vec(), name))
}
