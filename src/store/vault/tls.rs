//! TLS to the server: whom to trust, what to show, and what is wrong with a handshake in an operator's words.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use super::transport::Fault;
use crate::config::model::TlsConfig;

/// Which files stand at some paths: a file that is replaced, or written again, has another stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Option<(SystemTime, u64, u64)>>);

impl Stamps {
    pub fn of<'a>(paths: impl IntoIterator<Item = Option<&'a PathBuf>>) -> Self {
        let stamp = |path: &PathBuf| {
            let found = std::fs::metadata(path).ok()?;
            Some((found.modified().ok()?, found.len(), found.ino()))
        };
        Self(paths.into_iter().map(|path| path.and_then(stamp)).collect())
    }

    /// Of the files of TLS settings.
    pub fn of_tls(tls: &TlsConfig) -> Self {
        Self::of([&tls.ca_cert, &tls.ca_path, &tls.client_cert, &tls.client_key].map(Option::as_ref))
    }
}

/// For addresses without TLS: trusts nobody, and loads nothing.
pub(super) fn none() -> Result<ClientConfig, Fault> {
    Ok(builder()?.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

/// The settings as rustls has them. Reads files, off the runtime's thread.
pub(super) async fn config(tls: &TlsConfig) -> Result<ClientConfig, Fault> {
    let tls = tls.clone();
    let made = tokio::task::spawn_blocking(move || make(&tls)).await;
    made.unwrap_or_else(|_| Err(Fault::new("reading certificates was cut short", "start again")))
}

fn builder() -> Result<rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier>, Fault> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::new(format!("TLS: {error}"), "report it"))
}

fn make(tls: &TlsConfig) -> Result<ClientConfig, Fault> {
    let trusting = if tls.skip_verify {
        builder()?.dangerous().with_custom_certificate_verifier(Arc::new(Anybody(provider())))
    } else {
        builder()?.with_root_certificates(roots(tls)?)
    };
    let (Some(cert), Some(key)) = (&tls.client_cert, &tls.client_key) else {
        return Ok(trusting.with_no_client_auth());
    };
    let chain = certificates(cert)?;
    let unusable = |path: &Path, why: &dyn std::fmt::Display| {
        Fault::new(format!("{}: cannot be used: {why}", path.display()), "give a PEM file with the client's own")
    };
    let shown = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| unusable(key, &error))?;
    trusting.with_client_auth_cert(chain, shown).map_err(|error| unusable(cert, &error))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(tls: &TlsConfig) -> Result<RootCertStore, Fault> {
    let mut roots = RootCertStore::empty();
    let mut add = |path: &Path| {
        for certificate in certificates(path)? {
            roots.add(certificate).map_err(|error| {
                let what = format!("{} holds a certificate that cannot be used: {error}", path.display());
                Fault::new(what, "mend the file")
            })?;
        }
        Ok(())
    };
    match (&tls.ca_cert, &tls.ca_path) {
        (Some(file), _) => add(file)?,
        (None, Some(folder)) => {
            let unreadable = |error: std::io::Error| {
                Fault::new(format!("cannot read the CA folder {}: {error}", folder.display()), "mend VAULT_CAPATH")
            };
            for entry in std::fs::read_dir(folder).map_err(unreadable)? {
                let path = entry.map_err(unreadable)?.path();
                if path.is_file() {
                    add(&path)?;
                }
            }
        }
        (None, None) => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(Fault::new(
                    "this system has no CA certificates",
                    "install ca-certificates, or set tls.ca_cert",
                ));
            }
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let shown = path.display();
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(Fault::new(format!("{shown} holds no certificate"), "give a PEM file with certificates")),
        Err(error) => Err(Fault::new(format!("{shown} holds a certificate that cannot be used: {error}"), "mend it")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Fault> {
    std::fs::read(path).map_err(|error| {
        Fault::new(format!("cannot read {}: {}", path.display(), error.kind()), "let the agent's user read it")
    })
}

/// A failed handshake. A wrong CA, a wrong name and an expired certificate are different faults of different people.
pub(super) fn fault(error: &rustls::Error) -> Fault {
    let (what, todo) = match error {
        // A bad signature: the CA that is trusted has the right name and another key.
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            ("the server's certificate is signed by a CA that is not trusted", "set tls.ca_cert to the server's CA")
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => ("the server's certificate is for another name", "mend the address, or set tls.server_name"),
        rustls::Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            ("the server's certificate has expired", "renew it, and look at this machine's clock")
        }
        rustls::Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => ("the server's certificate is not valid yet", "look at this machine's clock"),
        rustls::Error::AlertReceived(_) => {
            return Fault::new(
                format!("TLS: the server broke the handshake off: {error}"),
                "it may ask for a client certificate (tls.client_cert, tls.client_key), or not accept this one",
            );
        }
        rustls::Error::InvalidMessage(_) => {
            ("TLS: the server does not speak it", "write http:// where the server has no TLS")
        }
        other => return Fault::new(format!("TLS: {other}"), "look at the server's certificate"),
    };
    Fault::new(what, todo)
}

/// Trusts whoever answers: `VAULT_SKIP_VERIFY`. The config warns.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
