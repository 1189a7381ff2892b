//! From a rendered request to a response: URL forms, TLS, and errors as an operator says them.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Method, Url};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::sync::OnceCell;

use super::io_reason;
use crate::config::model::HttpRequest;

/// The TLS settings of one probe, made at the first https attempt and kept: reading the system's certificates costs
/// milliseconds and memory that a plain check does not owe.
#[derive(Default)]
pub(super) struct Tls(OnceCell<ClientConfig>);

/// Why there is no response. Texts hold no header, body or URL.
pub(super) enum Fault {
    /// The request as rendered cannot be sent.
    Request(String),
    /// Nobody answered.
    Unreachable(String),
}

/// Where a request goes.
struct Place {
    url: Url,
    socket: Option<PathBuf>,
}

/// Sends one request over a new connection. The caller owes the timeout.
pub(super) async fn send(request: &HttpRequest, tls: &Tls) -> Result<reqwest::Response, Fault> {
    let place = place(&request.url)?;
    let method = Method::from_bytes(request.method.as_bytes())
        .map_err(|_| Fault::Request("the method is not one that HTTP allows".into()))?;
    let headers = headers(request)?;
    // Without https nothing of TLS is needed; an empty set of certificates keeps the client from loading the system's.
    let tls = if place.url.scheme() == "https" {
        tls.0.get_or_try_init(|| trusting(request.ca_cert.as_deref())).await?.clone()
    } else {
        config(RootCertStore::empty())?
    };
    let mut client = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .no_proxy()
        .referer(false)
        .http1_only()
        .pool_max_idle_per_host(0)
        .user_agent(concat!("leasehold/", env!("CARGO_PKG_VERSION")));
    if let Some(socket) = place.socket {
        client = client.unix_socket(socket);
    }
    let client = client.build().map_err(|e| Fault::of(&e))?;
    let mut asked = client.request(method, place.url).headers(headers);
    if let Some(body) = &request.body {
        asked = asked.body(body.clone());
    }
    asked.send().await.map_err(|e| Fault::of(&e))
}

fn place(url: &str) -> Result<Place, Fault> {
    let wrong = |why: &str| Fault::Request(format!("the url as rendered {why}"));
    if let Some(rest) = url.strip_prefix("unix:") {
        // unix:/path/to/socket:/request/path
        let (socket, path) = rest.split_once(":/").unwrap_or((rest, ""));
        let socket = PathBuf::from(socket);
        if !socket.is_absolute() {
            return Err(wrong("names no absolute socket path; write unix:/path/to/socket:/request/path"));
        }
        let url = Url::parse(&format!("http://localhost/{path}")).map_err(|e| wrong(&format!("is invalid: {e}")))?;
        return Ok(Place { url, socket: Some(socket) });
    }
    let url = Url::parse(url).map_err(|e| wrong(&format!("is invalid: {e}")))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong("is neither http://…, https://… nor unix:/socket:/path"));
    }
    Ok(Place { url, socket: None })
}

fn headers(request: &HttpRequest) -> Result<HeaderMap, Fault> {
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let header = HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| Fault::Request(format!("`{name}` is not a header name")))?;
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            Fault::Request(format!("the value of header {header} holds a character that HTTP does not allow there"))
        })?;
        value.set_sensitive(true);
        headers.append(header, value);
    }
    Ok(headers)
}

async fn trusting(ca_cert: Option<&Path>) -> Result<ClientConfig, Fault> {
    let ca_cert = ca_cert.map(Path::to_owned);
    let roots = tokio::task::spawn_blocking(move || match ca_cert {
        Some(path) => own_roots(&path),
        None => system_roots(),
    });
    let roots = roots.await.map_err(|_| Fault::Unreachable("reading CA certificates was cut short".into()))?;
    config(roots.map_err(Fault::Unreachable)?)
}

fn config(roots: RootCertStore) -> Result<ClientConfig, Fault> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Fault::Unreachable(format!("TLS: {e}")))?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn own_roots(path: &Path) -> Result<RootCertStore, String> {
    let shown = path.display();
    let pem = std::fs::read(path).map_err(|e| format!("cannot read the CA file {shown}: {}", io_reason(&e)))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let added = certificate.map_err(|e| e.to_string()).and_then(|c| roots.add(c).map_err(|e| e.to_string()));
        added.map_err(|e| format!("the CA file {shown} holds a certificate that cannot be used: {e}"))?;
    }
    if roots.is_empty() { Err(format!("the CA file {shown} holds no certificate")) } else { Ok(roots) }
}

fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("this system has no CA certificates; install ca-certificates or set ca_cert".into());
    }
    Ok(roots)
}

impl Fault {
    /// A client's error, by its innermost cause.
    pub(super) fn of(error: &reqwest::Error) -> Self {
        if error.is_builder() {
            return Self::Request("the request as rendered cannot be sent".into());
        }
        let mut innermost = None;
        let mut next = error.source();
        while let Some(cause) = next {
            if let Some(known) = known(cause) {
                return Self::Unreachable(known);
            }
            innermost = Some(cause.to_string());
            next = cause.source();
        }
        Self::Unreachable(innermost.unwrap_or_else(|| "the request failed".into()))
    }
}

fn known(cause: &(dyn Error + 'static)) -> Option<String> {
    if let Some(error) = cause.downcast_ref::<hyper::Error>() {
        return error.is_incomplete_message().then(|| "the answer broke off".into());
    }
    if let Some(error) = cause.downcast_ref::<rustls::Error>() {
        return Some(format!("TLS: {error}"));
    }
    let error = cause.downcast_ref::<std::io::Error>()?;
    // An I/O error's `source` skips what it wraps, and here one wraps another.
    match error.get_ref() {
        Some(inner) => known(inner).or_else(|| Some(io_reason(error))),
        None => Some(io_reason(error)),
    }
}
