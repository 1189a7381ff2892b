//! The wire: HTTP to one server over TCP or a Unix socket, as rustify's `Client`. It judges no status, follows no redirect
//! and repeats nothing. Its errors carry a [`Fault`].

use std::error::Error;
use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{Client, Url};
use rustify::errors::ClientError;

use super::tls::{self, Stamps};
use crate::config::model::TlsConfig;

/// The longest answer that is read. Vault's own bound on a request is 32 MiB, on an entry of its storage 1 MiB.
const MAX_BODY: usize = 8 << 20;

/// Shorter than load balancers keep a connection: one that they closed is found out only by a request that fails.
const IDLE: Duration = Duration::from_secs(50);

const BROKE_OFF: &str = "the answer broke off";

/// Why nothing usable came back. Texts hold no header, no body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub(super) struct Fault {
    /// What happened.
    pub what: String,
    /// What to do about it.
    pub todo: &'static str,
    /// An answer began, and made no sense.
    pub malformed: bool,
}

impl Fault {
    pub fn new(what: impl Into<String>, todo: &'static str) -> Self {
        Self { what: what.into(), todo, malformed: false }
    }

    fn malformed(what: impl Into<String>, todo: &'static str) -> Self {
        Self { malformed: true, ..Self::new(what, todo) }
    }

    /// The fault in an error of a [`rustify::client::Client`], or the error itself as one.
    pub fn of(error: &ClientError) -> Self {
        if let ClientError::GenericError { source } = error
            && let Some(fault) = source.downcast_ref::<Self>()
        {
            return fault.clone();
        }
        // Its own texts are fixed ones; what it carries beside them may hold secrets, and is left out.
        Self::new(error.to_string(), "look at the server")
    }
}

/// HTTP to one server.
pub(super) struct Wire {
    /// Scheme, host, port, and a path where the server stands below one.
    base: String,
    socket: Option<PathBuf>,
    tls: TlsConfig,
    timeout: Duration,
    client: Mutex<Option<(Stamps, Client)>>,
}

impl Wire {
    /// To `address`, `http(s)://…` or `unix:///path`. Nothing is opened yet.
    pub fn new(address: &str, tls: TlsConfig, timeout: Duration) -> Self {
        let socket = address.strip_prefix("unix://").map(PathBuf::from);
        let base = if socket.is_some() { "http://localhost" } else { address };
        Self { base: base.to_owned(), socket, tls, timeout, client: Mutex::default() }
    }

    async fn exchange(&self, request: http::Request<Vec<u8>>) -> Result<http::Response<Vec<u8>>, Fault> {
        let mut url = Url::parse(&request.uri().to_string())
            .map_err(|error| Fault::new(format!("the address is not a URL: {error}"), "mend the address"))?;
        let client = self.client(&url).await?;
        let (mut parts, body) = request.into_parts();
        if let Some(name) = self.tls.server_name.as_ref().filter(|_| url.scheme() == "https") {
            if let Ok(host) = http::HeaderValue::from_str(&host(&url)) {
                parts.headers.insert(http::header::HOST, host);
            }
            url.set_host(Some(name)).map_err(|_| Fault::new("tls.server_name is not a host's name", "mend it"))?;
        }
        let mut asked = client.request(parts.method, url).headers(parts.headers);
        if !body.is_empty() {
            asked = asked.header(http::header::CONTENT_TYPE, "application/json").body(body);
        }
        let mut answer = asked.send().await.map_err(|error| fault(&error))?;
        let mut response = http::Response::builder().status(answer.status());
        if let Some(headers) = response.headers_mut() {
            std::mem::swap(headers, answer.headers_mut());
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| cut(&error))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(Fault::malformed("the answer is longer than 8 MiB", "read a smaller secret"));
            }
            body.extend_from_slice(&chunk);
        }
        response.body(body).map_err(|_| Fault::malformed("the answer makes no sense", "look at the server"))
    }

    /// The client; made anew when the files of its TLS settings were replaced.
    async fn client(&self, url: &Url) -> Result<Client, Fault> {
        let stamps = Stamps::of_tls(&self.tls);
        if let Some((made, client)) = &*self.client.lock().unwrap_or_else(PoisonError::into_inner)
            && *made == stamps
        {
            return Ok(client.clone());
        }
        let client = self.build(url).await?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some((stamps, client.clone()));
        Ok(client)
    }

    async fn build(&self, url: &Url) -> Result<Client, Fault> {
        let mut builder = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .http1_only()
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(4)
            .user_agent(concat!("leasehold/", env!("CARGO_PKG_VERSION")));
        builder = if url.scheme() == "https" {
            builder.tls_backend_preconfigured(tls::config(&self.tls).await?)
        } else {
            builder.tls_backend_preconfigured(tls::none()?)
        };
        if let Some(socket) = &self.socket {
            builder = builder.unix_socket(socket.clone());
        }
        let host = Url::parse(&self.base).ok().and_then(|url| url.host_str().map(str::to_owned));
        if let (Some(_), Some(host)) = (&self.tls.server_name, host) {
            builder = builder.dns_resolver(std::sync::Arc::new(Elsewhere(host)));
        }
        builder.build().map_err(|error| fault(&error))
    }
}

/// `host:port`, as the Host header has it where the server's certificate has another name.
fn host(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Answers for every name with the addresses of one host: the URL holds the name that the certificate must have
/// (`tls.server_name`), and the connection goes where `address` says.
struct Elsewhere(String);

impl Resolve for Elsewhere {
    fn resolve(&self, _name: Name) -> Resolving {
        let host = self.0.trim_matches(['[', ']']).to_owned();
        Box::pin(async move {
            let found: Vec<SocketAddr> = tokio::net::lookup_host((host.as_str(), 0)).await?.collect();
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

impl rustify::client::Client for Wire {
    fn send<'life0, 'async_trait>(
        &'life0 self,
        request: http::Request<Vec<u8>>,
    ) -> Pin<Box<dyn Future<Output = Result<http::Response<Vec<u8>>, ClientError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let answer = tokio::time::timeout(self.timeout, self.exchange(request)).await;
            let answer = answer.unwrap_or_else(|_| {
                let what = format!("no answer within {:?}", self.timeout);
                Err(Fault::new(what, "look whether the server hangs, or raise `timeout`"))
            });
            answer.map_err(|fault| ClientError::GenericError { source: fault.into() })
        })
    }

    fn base(&self) -> &str {
        &self.base
    }
}

fn cut(error: &reqwest::Error) -> Fault {
    let why = fault(error);
    let what = if why.what == BROKE_OFF { why.what } else { format!("{BROKE_OFF}: {}", why.what) };
    Fault::malformed(what, "look at the server, and at proxies before it")
}

/// A client's error, by its innermost cause that is known.
fn fault(error: &reqwest::Error) -> Fault {
    let mut innermost = None;
    let mut next = error.source();
    while let Some(cause) = next {
        if let Some(known) = known(cause) {
            return known;
        }
        innermost = Some(cause.to_string());
        next = cause.source();
    }
    let what = innermost.unwrap_or_else(|| "the request failed".into());
    match what.contains("lookup address") {
        true => Fault::new(format!("the host's name cannot be resolved: {what}"), "mend the address, or DNS"),
        false => Fault::new(what, "look whether the server runs and can be reached"),
    }
}

fn known(cause: &(dyn Error + 'static)) -> Option<Fault> {
    if let Some(error) = cause.downcast_ref::<hyper::Error>() {
        return error.is_incomplete_message().then(|| Fault::malformed(BROKE_OFF, "look at the server"));
    }
    if let Some(error) = cause.downcast_ref::<rustls::Error>() {
        return Some(tls::fault(error));
    }
    let error = cause.downcast_ref::<std::io::Error>()?;
    // An I/O error's `source` skips what it wraps, and here one wraps another.
    if let Some(inner) = error.get_ref() {
        return known(inner).or_else(|| inner.source().and_then(known));
    }
    let reason = error
        .raw_os_error()
        .map_or_else(|| error.kind().to_string(), |code| std::io::Error::from_raw_os_error(code).to_string());
    let reason = reason.split(" (os error").next().unwrap_or_default().to_lowercase();
    let todo = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "nobody listens there: start the server, or mend the address",
        std::io::ErrorKind::NotFound => "there is no such socket: start the server, or mend the address",
        std::io::ErrorKind::PermissionDenied => "let the agent's user connect to the socket",
        std::io::ErrorKind::UnexpectedEof => "the server, or something before it, hung up: look there",
        _ => "look whether the server runs and can be reached",
    };
    Some(Fault::new(reason, todo))
}
