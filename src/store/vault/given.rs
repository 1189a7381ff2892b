//! Tokens that somebody gives: in the config, in a file, or as the CLI keeps one.

use super::credentials;
use super::judge;
use super::server::Server;
use crate::config::model::VaultAuth;
use crate::secret::SecretBytes;
use crate::store::{StoreError, StoreErrorKind};

/// Whether the token comes from a file that may be replaced.
pub(super) fn follows(auth: &VaultAuth) -> bool {
    matches!(auth, VaultAuth::TokenFile { .. } | VaultAuth::Token { token: None })
}

/// Whether nothing logs in.
pub(super) fn is_given(auth: &VaultAuth) -> bool {
    matches!(auth, VaultAuth::TokenFile { .. } | VaultAuth::Token { .. })
}

/// The token as it is given now. None: a login brings it.
pub(super) async fn token(server: &Server, auth: &VaultAuth) -> Result<Option<SecretBytes>, StoreError> {
    let store: &str = &server.name;
    match auth {
        VaultAuth::Token { token: Some(token) } => Ok(Some(token.clone())),
        VaultAuth::Token { token: None } => {
            let Some(home) = &server.senses.home else { return Err(none(store)) };
            match credentials::word(store, &home.join(".vault-token"), "token").await {
                Err(error) if error.kind == StoreErrorKind::Missing => Err(none(store)),
                token => token.map(Some),
            }
        }
        VaultAuth::TokenFile { path } => credentials::word(store, path, "token").await.map(Some),
        _ => Ok(None),
    }
}

fn none(store: &str) -> StoreError {
    let text = "there is no token: auth says none, VAULT_TOKEN is not set, and there is no ~/.vault-token; set auth";
    judge::error(store, "auth", StoreErrorKind::Denied, text)
}

/// A given token is dead.
pub(super) fn dead(store: &str, auth: &VaultAuth) -> StoreError {
    let text = match auth {
        VaultAuth::TokenFile { path } => {
            format!("the token in {} is dead: it was revoked, or has ended; write a new one there", path.display())
        }
        VaultAuth::Token { token: None } => "the token in ~/.vault-token is dead: vault login".to_owned(),
        _ => {
            "the token that the config or VAULT_TOKEN gives is dead: it was revoked, or has ended; give a new one and \
              restart (or use a token-file, which is followed)"
                .to_owned()
        }
    };
    judge::error(store, "auth", StoreErrorKind::Denied, text)
}
