//! What the agent shows to log in, read from its files anew at each login.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use super::judge;
use super::tls::Stamps;
use crate::config::model::VaultAuth;
use crate::secret::SecretBytes;
use crate::store::{StoreError, StoreErrorKind};

/// The files of a login, by their stamps.
pub(super) fn stamps(auth: &VaultAuth) -> Stamps {
    let files: Vec<Option<&PathBuf>> = match auth {
        VaultAuth::TokenFile { path } => vec![Some(path)],
        VaultAuth::AppRole { role_id_file, secret_id_file, .. } => vec![Some(role_id_file), secret_id_file.as_ref()],
        VaultAuth::Jwt { token_file, .. } => vec![Some(token_file)],
        VaultAuth::Userpass { password_file, .. } => vec![Some(password_file)],
        VaultAuth::Token { .. } | VaultAuth::Cert { .. } | VaultAuth::AwsIam { .. } => Vec::new(),
    };
    Stamps::of(files)
}

/// A token or id: one word.
pub(super) async fn word(store: &str, path: &Path, what: &str) -> Result<SecretBytes, StoreError> {
    let bytes = read(store, path, what).await?;
    let word = bytes.expose().trim_ascii();
    if word.is_empty() || !word.iter().all(u8::is_ascii_graphic) {
        let text =
            format!("{what}: the file is empty, or holds what no {what} holds (spaces, line breaks); write it alone");
        return Err(judge::error(store, &path.display().to_string(), StoreErrorKind::Malformed, text));
    }
    Ok(SecretBytes::new(word.to_vec()))
}

/// A password: all but one line break at its end.
pub(super) async fn line(store: &str, path: &Path, what: &str) -> Result<SecretBytes, StoreError> {
    let bytes = read(store, path, what).await?;
    let line = bytes.expose();
    let line = line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
    match line.is_empty() || std::str::from_utf8(line).is_err() {
        true => {
            let text = format!("{what}: the file is empty, or not UTF-8; mend it");
            Err(judge::error(store, &path.display().to_string(), StoreErrorKind::Malformed, text))
        }
        false => Ok(SecretBytes::new(line.to_vec())),
    }
}

async fn read(store: &str, path: &Path, what: &str) -> Result<SecretBytes, StoreError> {
    tokio::fs::read(path).await.map(SecretBytes::new).map_err(|error| {
        let (kind, todo) = match error.kind() {
            ErrorKind::NotFound => (StoreErrorKind::Missing, "put it there"),
            ErrorKind::PermissionDenied => (StoreErrorKind::Denied, "let the agent's user read it"),
            _ => (StoreErrorKind::Unavailable, "look at the file"),
        };
        judge::error(
            store,
            &path.display().to_string(),
            kind,
            format!("cannot read the {what}: {}; {todo}", error.kind()),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_word_is_trimmed_and_garbage_is_refused_without_being_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let of = |content: &str| {
            std::fs::write(&path, content).unwrap();
            word("v", &path, "token")
        };
        assert_eq!(of("hvs.abc\n").await.unwrap().expose(), b"hvs.abc");
        for garbage in ["", " \n", "hvs.a\nhvs.b", "hvs.\u{1}", "hvs é"] {
            let error = of(garbage).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Malformed);
            assert!(!error.message.contains("hvs"), "{}", error.message);
        }
        std::fs::write(&path, "pass word\n").unwrap();
        assert_eq!(line("v", &path, "password").await.unwrap().expose(), b"pass word");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(line("v", &path, "password").await.unwrap_err().kind, StoreErrorKind::Missing);
    }
}
