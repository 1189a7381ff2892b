//! The read-only HTTP endpoint: `/live`, `/ready`, `/metrics`, `/status`. HTTP/1 (RFC 9112), one request a connection.
//!
//! Bounded in every direction: connections, the time a head may take, the time a connection may take; bodies are not
//! read. A `Host` that is a name other than `localhost` is refused, so that no web page can reach it through a name of
//! its own (DNS rebinding). No authentication: what it shows holds no value, and it belongs on loopback, unless the config
//! says `exposed`.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, X_CONTENT_TYPE_OPTIONS};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::telemetry::metrics;

/// Connections at a time; one more is closed at once.
const CONNECTIONS: usize = 32;
/// Bound on the arrival of a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Bound on a whole connection.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(15);
/// Bound on the answers under way at shutdown.
const GOODBYE: Duration = Duration::from_secs(1);
/// Pause after the system refused a connection (no file descriptors left).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What is shown. Called on the runtime's thread: no waiting.
pub trait AdminView: Send + Sync {
    /// Whether the agent works at all.
    fn live(&self) -> bool;
    /// Whether every target is on a committed generation or waiting, and what is not.
    fn ready(&self) -> (bool, String);
    /// OpenMetrics text; the older format is made from it.
    fn metrics(&self) -> String;
    /// The whole status, without values.
    fn status(&self) -> serde_json::Value;
}

/// The endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for the admin endpoint: {source}")]
pub struct AdminError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Opens the endpoint. Port 0 takes a free one: see `local_addr` of the answer.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, AdminError> {
    TcpListener::bind(address).await.map_err(|source| AdminError { address, source })
}

/// Serves until `stop`, then lets answers under way end within a second.
pub async fn serve(listener: TcpListener, view: Arc<dyn AdminView>, stop: CancellationToken) {
    let listen = listener.local_addr().ok().map(|address| address.ip());
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, _)) => {
                let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
                    tracing::debug!("admin endpoint: {CONNECTIONS} connections are open; one more was closed");
                    continue;
                };
                let (view, stop) = (Arc::clone(&view), stop.clone());
                connections.spawn(async move {
                    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection(stream, listen, view, stop)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("admin endpoint: cannot accept a connection: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    let _ = tokio::time::timeout(GOODBYE, async { while connections.join_next().await.is_some() {} }).await;
}

async fn connection(stream: TcpStream, listen: Option<IpAddr>, view: Arc<dyn AdminView>, stop: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        std::future::ready(Ok::<_, Infallible>(answer(&request, listen, view.as_ref())))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .keep_alive(false)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::trace!("admin endpoint: {error}");
    }
}

fn answer<B>(request: &Request<B>, listen: Option<IpAddr>, view: &dyn AdminView) -> Response<Full<Bytes>> {
    if !host_is_ours(request, listen) {
        return text(StatusCode::FORBIDDEN, "this host name is not served here\n".into());
    }
    let path = request.uri().path();
    if !matches!(path, "/live" | "/ready" | "/metrics" | "/status") {
        return text(StatusCode::NOT_FOUND, "there are /live, /ready, /metrics and /status\n".into());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "read-only\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    // For HEAD the server sends the head alone, with the length that GET would have.
    match path {
        "/live" if view.live() => text(StatusCode::OK, "live\n".into()),
        "/live" => text(StatusCode::SERVICE_UNAVAILABLE, "not live\n".into()),
        "/ready" => {
            let (ready, why) = view.ready();
            text(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, why + "\n")
        }
        "/metrics" if wants_open_metrics(request) => with_type(StatusCode::OK, metrics::CONTENT_TYPE, view.metrics()),
        "/metrics" => with_type(StatusCode::OK, metrics::PLAIN_CONTENT_TYPE, metrics::plain(&view.metrics())),
        _ => with_type(StatusCode::OK, "application/json", view.status().to_string() + "\n"),
    }
}

/// Prometheus asks for it by name; what does not reads the older format, `promtool check metrics` among them.
fn wants_open_metrics<B>(request: &Request<B>) -> bool {
    let accepts = |value: &HeaderValue| value.to_str().is_ok_and(|v| v.contains("application/openmetrics-text"));
    request.headers().get_all(ACCEPT).iter().any(accepts)
}

/// Whether the request was meant for this address: `localhost`, a loopback address or the address listened on; where all
/// addresses are listened on, any address. Only an HTTP/1.0 request may leave the host out.
fn host_is_ours<B>(request: &Request<B>, listen: Option<IpAddr>) -> bool {
    let header = request.headers().get(HOST);
    if header.is_none() && request.uri().authority().is_none() {
        return request.version() == Version::HTTP_10;
    }
    let ours = |authority: &hyper::http::uri::Authority| {
        let host = authority.host().trim_start_matches('[').trim_end_matches(']');
        match host.parse::<IpAddr>() {
            Ok(ip) => ip.is_loopback() || listen.is_some_and(|listen| listen == ip || listen.is_unspecified()),
            Err(_) => host.eq_ignore_ascii_case("localhost") || host.eq_ignore_ascii_case("localhost."),
        }
    };
    let from_header = header.map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    request.headers().get_all(HOST).iter().count() <= 1
        && from_header.is_none_or(|authority| authority.as_ref().is_some_and(ours))
        && request.uri().authority().is_none_or(ours)
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
