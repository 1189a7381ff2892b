//! Logging in: one request a method, and the unwrapping of a secret id before it.

use rustify::endpoint::Endpoint;
use serde_json::{Value, json};
use vaultrs::api::auth::approle::requests::LoginWithApproleRequest;
use vaultrs::api::auth::kubernetes::requests::LoginWithKubernetesRequest;
use vaultrs::api::auth::userpass::requests::LoginRequest as LoginWithUserpassRequest;
use vaultrs::api::sys::requests::WrappingLookupRequest;

use super::call::{Answer, Call};
use super::credentials;
use super::judge;
use super::saved::Unwrapped;
use super::server::Server;
use super::token::Grant;
use crate::config::model::VaultAuth;
use crate::digest::Key;
use crate::secret::SecretBytes;
use crate::store::{StoreError, StoreErrorKind};

/// A token, fresh from a login.
pub(super) struct Entered {
    pub value: SecretBytes,
    pub grant: Grant,
}

/// Where the method is mounted, and how an operator calls it.
pub(super) fn name(auth: &VaultAuth) -> String {
    match auth {
        VaultAuth::Token { .. } => "token".into(),
        VaultAuth::TokenFile { .. } => "token-file".into(),
        VaultAuth::AppRole { mount, .. }
        | VaultAuth::Jwt { mount, .. }
        | VaultAuth::Cert { mount, .. }
        | VaultAuth::Userpass { mount, .. }
        | VaultAuth::AwsIam { mount, .. } => format!("auth/{mount}"),
    }
}

/// As whom, as far as the config says: files are followed, and tell nothing here.
pub(super) fn who(auth: &VaultAuth) -> String {
    match auth {
        VaultAuth::Jwt { role, .. } => role.clone(),
        VaultAuth::Cert { name, .. } => name.clone().unwrap_or_default(),
        VaultAuth::Userpass { username, .. } => username.clone(),
        VaultAuth::AwsIam { role, .. } => role.clone().unwrap_or_default(),
        VaultAuth::AppRole { role_id_file, .. } => role_id_file.display().to_string(),
        VaultAuth::Token { .. } | VaultAuth::TokenFile { .. } => String::new(),
    }
}

fn call(server: &Server, endpoint: &impl Endpoint, secrets: &[&SecretBytes]) -> Result<Call, StoreError> {
    let Some(mut call) = Call::of(endpoint) else {
        return Err(judge::error(
            &server.name,
            "login",
            StoreErrorKind::Malformed,
            "the request cannot be written down",
        ));
    };
    call.secrets = secrets.iter().map(|secret| (*secret).clone()).collect();
    Ok(call)
}

fn text(secret: &SecretBytes) -> String {
    secret.expose_str().unwrap_or_default().to_owned()
}

/// Logs in. `secret_id`: what was unwrapped for AppRole.
pub(super) async fn login(
    server: &Server,
    auth: &VaultAuth,
    secret_id: Option<&SecretBytes>,
) -> Result<Entered, StoreError> {
    let store: &str = &server.name;
    let request = match auth {
        VaultAuth::Token { .. } | VaultAuth::TokenFile { .. } => {
            return Err(judge::error(store, "login", StoreErrorKind::Denied, "a token that is given needs no login"));
        }
        VaultAuth::AppRole { mount, role_id_file, secret_id_file, .. } => {
            let role_id = credentials::word(store, role_id_file, "role id").await?;
            let secret_id = match (secret_id, secret_id_file) {
                (Some(unwrapped), _) => Some(unwrapped.clone()),
                (None, Some(file)) => Some(credentials::word(store, file, "secret id").await?),
                (None, None) => None,
            };
            match secret_id {
                Some(secret_id) => {
                    let (id, secret) = (text(&role_id), text(&secret_id));
                    let request = LoginWithApproleRequest { mount: mount.clone(), role_id: id, secret_id: secret };
                    call(server, &request, &[&secret_id, &role_id])?
                }
                None => bare(&format!("auth/{mount}/login"), &json!({"role_id": text(&role_id)}), &role_id),
            }
        }
        VaultAuth::Jwt { mount, role, token_file } => {
            let jwt = credentials::word(store, token_file, "token").await?;
            let request = LoginWithKubernetesRequest { mount: mount.clone(), role: role.clone(), jwt: text(&jwt) };
            call(server, &request, &[&jwt])?
        }
        VaultAuth::Cert { mount, name } => {
            let body = name.as_ref().map_or_else(|| json!({}), |name| json!({"name": name}));
            Call::post(format!("auth/{mount}/login"), &body)
        }
        VaultAuth::Userpass { mount, username, password_file } => {
            let password = credentials::line(store, password_file, "password").await?;
            let request = LoginWithUserpassRequest {
                mount: mount.clone(),
                username: username.clone(),
                password: text(&password),
            };
            call(server, &request, &[&password])?
        }
        VaultAuth::AwsIam { .. } => {
            return Err(judge::error(store, "login", StoreErrorKind::NotBuilt, "auth of type aws is not built yet"));
        }
    };
    let known: Vec<_> = request.secrets.iter().map(|secret| (server.senses.learn)(secret)).collect();
    let answer = server.ask(&request, None).await?;
    drop(known);
    entered(server, &request, &answer)
}

fn bare(path: &str, body: &Value, secret: &SecretBytes) -> Call {
    Call::post(path, body).hiding(secret)
}

/// The token in the answer to a login.
fn entered(server: &Server, call: &Call, answer: &Answer) -> Result<Entered, StoreError> {
    if !answer.is_success() {
        let refused = judge::refused(&server.name, call, answer);
        let what = refused.message.rsplit_once("; ").map_or(refused.message.as_str(), |(what, _)| what);
        let message = format!("{what}; login refused: look at the credentials, the role and the mount of this login");
        return Err(StoreError { kind: StoreErrorKind::Denied, message, retry_after: None });
    }
    let auth = &answer.json()["auth"];
    match auth["client_token"].as_str().filter(|token| !token.is_empty()) {
        Some(token) => Ok(Entered { value: SecretBytes::from(token), grant: Grant::of_auth(auth) }),
        None if auth["mfa_requirement"].is_object() => Err(server.error(
            call,
            StoreErrorKind::Denied,
            "this login asks for a second factor; give the agent a role without",
        )),
        None => Err(server.error(call, StoreErrorKind::Malformed, "the answer to the login holds no token")),
    }
}

/// Unwraps the secret id in the file: looks first whether the wrapping token is still whole and what it should be, since
/// unwrapping spends it. What was unwrapped before from the same token is taken again.
pub(super) async fn unwrap(
    server: &Server,
    key: &Key,
    auth: &VaultAuth,
    before: Option<&Unwrapped>,
    spare: bool,
) -> Result<Option<Unwrapped>, StoreError> {
    let VaultAuth::AppRole { mount, secret_id_file: Some(file), wrapped: true, .. } = auth else { return Ok(None) };
    let wrapping = credentials::word(&server.name, file, "wrapping token").await?;
    let from = key.digest("vault wrapping token").part(wrapping.expose()).hex(16);
    if let Some(before) = before.filter(|before| before.from == from) {
        return Ok(Some(before.clone()));
    }
    let _known = (server.senses.learn)(&wrapping);
    let look = call(server, &WrappingLookupRequest { token: text(&wrapping) }, &[&wrapping])?;
    let found = server.ask(&look, None).await?;
    if !found.is_success() {
        let text = format!(
            "the wrapping token in {} is spent or has ended ({}); if the agent did not use it, somebody else did: revoke the \
             secret id, then put a new wrapping token there",
            file.display(),
            found.status
        );
        return Err(server.error(&look, StoreErrorKind::Denied, text));
    }
    let made_by = found.json()["data"]["creation_path"].as_str().unwrap_or_default();
    let right = made_by.strip_prefix(&format!("auth/{mount}/role/")).is_some_and(|rest| rest.contains("/secret-id"));
    if !right {
        let text = format!(
            "the token in {} wraps something that was not made by auth/{mount}/role/NAME/secret-id: it is not used; find out \
             who put it there",
            file.display()
        );
        return Err(server.error(&look, StoreErrorKind::Denied, text));
    }
    if spare {
        let text = format!(
            "the wrapping token in {} is good, serves only once, and is left to the agent: what it opens is not looked at",
            file.display()
        );
        return Err(server.error(&look, StoreErrorKind::Denied, text));
    }
    let unwrap = Call::post("sys/wrapping/unwrap", &json!({})).hiding(&wrapping);
    let answer = server.ask(&unwrap, Some(&wrapping)).await?;
    if !answer.is_success() {
        return Err(judge::refused(&server.name, &unwrap, &answer));
    }
    match answer.json()["data"]["secret_id"].as_str() {
        Some(secret_id) => Ok(Some(Unwrapped { from, secret_id: secret_id.to_owned() })),
        None => Err(server.error(&unwrap, StoreErrorKind::Malformed, "what was wrapped holds no secret_id")),
    }
}
