//! Auth methods: AppRole, userpass, JWT, Kubernetes, TLS certificates and AWS IAM.

use std::collections::BTreeMap;

use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::approle::AppRole;
use super::state::{Answer, Call, Grant, Op, Reply, nothing, refuse};
use super::values::{flag, list, number, pem_body, span, text};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    AppRole,
    Userpass,
    Jwt,
    Kubernetes,
    Cert,
    Aws,
}

pub struct Logins {
    method: Method,
    approle: AppRole,
    config: Map<String, Value>,
    /// Roles, users or certificates, by name.
    roles: BTreeMap<String, Map<String, Value>>,
}

/// What a role grants, by the `token_*` fields that all methods share.
pub fn grant(role: &Map<String, Value>, display_name: &str) -> Grant {
    let mut policies = list(role, "token_policies");
    if policies.is_empty() {
        policies = list(role, "policies");
    }
    Grant {
        policies,
        no_default_policy: flag(role, "token_no_default_policy") == Some(true),
        ttl: span(role, "token_ttl"),
        max_ttl: span(role, "token_max_ttl"),
        explicit_max_ttl: span(role, "token_explicit_max_ttl"),
        period: span(role, "token_period"),
        num_uses: number(role, "token_num_uses").unwrap_or(0),
        batch: text(role, "token_type") == "batch",
        fixed: false,
        display_name: display_name.to_owned(),
        meta: Map::new(),
    }
}

impl Logins {
    pub fn new(kind: &str) -> Option<Logins> {
        let method = match kind {
            "approle" => Method::AppRole,
            "userpass" => Method::Userpass,
            "jwt" | "oidc" => Method::Jwt,
            "kubernetes" => Method::Kubernetes,
            "cert" => Method::Cert,
            "aws" => Method::Aws,
            _ => return None,
        };
        Some(Logins { method, approle: AppRole::default(), config: Map::new(), roles: BTreeMap::new() })
    }

    /// True for the one path that needs no token.
    pub fn is_login(&self, path: &str) -> bool {
        path == "login" || (self.method == Method::Userpass && path.starts_with("login/"))
    }

    pub fn answer(&mut self, call: &Call<'_>) -> Answer {
        match (call.op, call.parts().as_slice()) {
            (Op::Write, ["login", ..]) => self.login(call),
            (_, ["role", ..]) if self.method == Method::AppRole => self.approle.answer(call),
            (Op::Write, ["config", ..]) => {
                self.config = call.body.clone();
                Ok(Reply::Empty)
            }
            (Op::Write, ["role" | "roles" | "users" | "certs", name]) => {
                self.roles.insert((*name).to_owned(), call.body.clone());
                Ok(Reply::Empty)
            }
            (Op::Read, ["role" | "roles" | "users" | "certs", name]) => match self.roles.get(*name) {
                Some(role) => Ok(Reply::Data(json!(role))),
                None => nothing(),
            },
            (Op::Delete, ["role" | "roles" | "users" | "certs", name]) => {
                self.roles.remove(*name);
                Ok(Reply::Empty)
            }
            _ => nothing(),
        }
    }

    fn login(&mut self, call: &Call<'_>) -> Answer {
        match self.method {
            Method::AppRole => self.approle.login(call),
            Method::Userpass => self.userpass(call),
            Method::Jwt => self.jwt(call),
            Method::Kubernetes => self.kubernetes(call),
            Method::Cert => self.cert(call),
            Method::Aws => self.aws(call),
        }
    }

    fn userpass(&self, call: &Call<'_>) -> Answer {
        let name = call.path.strip_prefix("login/").unwrap_or_default();
        let password = text(call.body, "password");
        match self.roles.get(name) {
            Some(user) if !password.is_empty() && text(user, "password") == password => {
                let mut grant = grant(user, &format!("userpass-{name}"));
                grant.meta.insert("username".to_owned(), json!(name));
                Ok(Reply::Auth(grant))
            }
            _ => refuse(400, "invalid username or password"),
        }
    }

    /// ES256 against `jwt_validation_pubkeys`; audience, subject and expiry.
    fn jwt(&self, call: &Call<'_>) -> Answer {
        let named = text(call.body, "role");
        let name = if named.is_empty() { text(&self.config, "default_role") } else { named };
        let Some(role) = self.roles.get(&name) else {
            return refuse(400, &format!("role {name:?} could not be found"));
        };
        let token = text(call.body, "jwt");
        let keys = list(&self.config, "jwt_validation_pubkeys");
        let Some(claims) = claims(&token).filter(|_| keys.iter().any(|key| signed(&token, key))) else {
            return refuse(
                400,
                "error validating token: error verifying token signature: no known key successfully validated the token signature",
            );
        };
        if expired(&claims, call) {
            return refuse(400, "error validating token: invalid expiration time (exp) claim: token is expired");
        }
        let audiences = match claims.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            _ => list(&claims, "aud"),
        };
        let bound = list(role, "bound_audiences");
        if !bound.is_empty() && !bound.iter().any(|b| audiences.contains(b)) {
            return refuse(
                400,
                "error validating token: invalid audience (aud) claim: audience claim does not match any expected audience",
            );
        }
        let subject = text(role, "bound_subject");
        if !subject.is_empty() && subject != text(&claims, "sub") {
            return refuse(400, "error validating token: invalid subject (sub) claim");
        }
        let claim = Some(text(role, "user_claim")).filter(|c| !c.is_empty()).unwrap_or_else(|| "sub".to_owned());
        Ok(Reply::Auth(grant(role, &format!("jwt-{}", text(&claims, &claim)))))
    }

    /// Shortcut of the fake: it takes the claims as they are, where a real server asks Kubernetes for a TokenReview.
    fn kubernetes(&self, call: &Call<'_>) -> Answer {
        let name = text(call.body, "role");
        let Some(role) = self.roles.get(&name) else { return refuse(400, &format!("invalid role name {name:?}")) };
        let Some(claims) = claims(&text(call.body, "jwt")) else { return refuse(400, "missing or malformed jwt") };
        let subject = text(&claims, "sub");
        let account = subject.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
        let Some((namespace, account)) = account.filter(|_| !expired(&claims, call)) else {
            return refuse(403, "permission denied");
        };
        let fits = |key: &str, have: &str| list(role, key).iter().any(|want| want == "*" || want == have);
        if !fits("bound_service_account_names", account) || !fits("bound_service_account_namespaces", namespace) {
            return refuse(403, "service account name not authorized");
        }
        let mut grant = grant(role, &format!("kubernetes-{namespace}-{account}"));
        grant.meta.insert("service_account_name".to_owned(), json!(account));
        Ok(Reply::Auth(grant))
    }

    /// Shortcut of the fake: the client's certificate is the one that the role names, whole.
    fn cert(&self, call: &Call<'_>) -> Answer {
        let Some(given) = call.cert else { return refuse(400, "client certificate must be supplied") };
        let named = text(call.body, "name");
        let mine = |role: &Map<String, Value>| pem_body(&text(role, "certificate")).is_some_and(|der| der == given);
        let found = self.roles.iter().find(|(name, role)| (named.is_empty() || **name == named) && mine(role));
        match found {
            Some((name, role)) => Ok(Reply::Auth(grant(role, name))),
            None => refuse(400, "invalid certificate or no client certificate supplied"),
        }
    }

    /// The shape and age of a signed `sts:GetCallerIdentity`; its signature is not checked, its access key stands for the
    /// caller. STS's clock is ahead by the role's `fake_sts_ahead` seconds.
    fn aws(&self, call: &Call<'_>) -> Answer {
        let decoded = |key: &str| {
            let bytes = BASE64_STANDARD.decode(text(call.body, key)).ok()?;
            String::from_utf8(bytes).ok()
        };
        let name = text(call.body, "role");
        let Some(role) = self.roles.get(&name) else { return refuse(400, &format!("entry for role {name} not found")) };
        if text(call.body, "iam_http_request_method") != "POST" {
            return refuse(400, "invalid iam_http_request_method; currently only 'POST' is supported");
        }
        let url = decoded("iam_request_url").unwrap_or_default();
        if !url.starts_with("https://sts.") || !url.contains("amazonaws.com") {
            return refuse(400, "error making upstream request: iam_request_url is not STS");
        }
        if decoded("iam_request_body").as_deref() != Some("Action=GetCallerIdentity&Version=2011-06-15") {
            return refuse(400, "iam_request_body is not GetCallerIdentity");
        }
        let headers: Option<Map<String, Value>> =
            decoded("iam_request_headers").and_then(|text| serde_json::from_str(&text).ok());
        let Some(headers) = headers else { return refuse(400, "missing or malformed iam_request_headers") };
        let header = |name: &str| {
            headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| match v {
                Value::Array(all) => all.first().and_then(Value::as_str).unwrap_or_default().to_owned(),
                other => other.as_str().unwrap_or_default().to_owned(),
            })
        };
        let authorization = header("authorization").unwrap_or_default();
        if !authorization.starts_with("AWS4-HMAC-SHA256 Credential=") || header("x-amz-date").is_none() {
            return refuse(400, "iam_request_headers are not signed");
        }
        let ahead = number(role, "fake_sts_ahead").unwrap_or(0);
        let sts = call.now + Duration::from_secs(ahead);
        if let Err(why) = fresh(&header("x-amz-date").unwrap_or_default(), sts) {
            let code = "<Code>SignatureDoesNotMatch</Code>";
            return refuse(
                400,
                &format!(
                    "error making upstream request: received error code 403 from STS: <Error>{code}<Message>{why}</Message></Error>"
                ),
            );
        }
        let wanted = text(&self.config, "iam_server_id_header_value");
        if !wanted.is_empty() {
            let signed = authorization.to_ascii_lowercase().contains("x-vault-aws-iam-server-id");
            if header("x-vault-aws-iam-server-id").as_deref() != Some(wanted.as_str()) || !signed {
                return refuse(400, "error validating X-Vault-AWS-IAM-Server-ID header");
            }
        }
        let key = text(role, "fake_access_key");
        if !key.is_empty() && !authorization.contains(&format!("Credential={key}/")) {
            return refuse(403, "IAM principal does not belong to the role");
        }
        Ok(Reply::Auth(grant(role, &format!("aws-{name}"))))
    }
}

/// AWS takes a signature for 15 minutes, before and after.
fn fresh(date: &str, now: Timestamp) -> Result<(), String> {
    let made =
        jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", date).and_then(|at| at.to_zoned(jiff::tz::TimeZone::UTC));
    let Ok(made) = made.map(|at| at.timestamp()) else { return Err(format!("Date must be in ISO-8601, not {date}")) };
    let age = now.as_second() - made.as_second();
    match age {
        901.. => Err(format!("Signature expired: {date} is now earlier than {now} (15 min.)")),
        ..=-901 => Err(format!("Signature not yet current: {date} is still later than {now} (15 min.)")),
        _ => Ok(()),
    }
}

fn claims(jwt: &str) -> Option<Map<String, Value>> {
    let payload = jwt.split('.').nth(1)?;
    serde_json::from_slice(&BASE64_URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

fn expired(claims: &Map<String, Value>, call: &Call<'_>) -> bool {
    claims.get("exp").and_then(Value::as_i64).is_some_and(|exp| exp <= call.now.as_second())
}

fn signed(jwt: &str, pem: &str) -> bool {
    let Some((message, signature)) = jwt.rsplit_once('.') else { return false };
    let (Ok(signature), Some(der)) = (BASE64_URL_SAFE_NO_PAD.decode(signature), pem_body(pem)) else { return false };
    // The point is the end of a P-256 key's SubjectPublicKeyInfo.
    let Some(point) = der.len().checked_sub(65).map(|at| &der[at..]) else { return false };
    let key = ring::signature::UnparsedPublicKey::new(&ring::signature::ECDSA_P256_SHA256_FIXED, point);
    key.verify(message.as_bytes(), &signature).is_ok()
}
