//! The fake behind real sockets: TCP, unix, TLS.

use std::convert::Infallible;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::BodyExt;
use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;
use tokio_rustls::TlsAcceptor;

use super::super::wire::{Fate, Request, Response};
use super::Fake;

/// Serves until it is dropped, on a thread of its own.
pub struct Listener {
    /// `http://127.0.0.1:PORT`, `https://localhost:PORT` or `unix:///PATH`.
    pub address: String,
    _stop: oneshot::Sender<Infallible>,
}

/// What a client of the fake's TLS needs; a CA of its own for every listener.
pub struct Tls {
    pub ca_pem: String,
    pub client_cert_pem: String,
    pub client_key_pem: String,
    server: Arc<rustls::ServerConfig>,
}

impl Tls {
    /// A server certificate for `localhost`, 127.0.0.1 and these names. With `client`, a client must show a certificate of
    /// the CA; without, it may.
    pub fn new(names: &[&str], client: bool) -> Tls {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let mut names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        names.extend(["localhost".to_owned(), "127.0.0.1".to_owned()]);
        let issue = |names: Vec<String>| {
            let key = KeyPair::generate().unwrap();
            (CertificateParams::new(names).unwrap().signed_by(&key, &ca).unwrap(), key)
        };
        let (cert, key) = issue(names);
        let (client_cert, client_key) = issue(vec!["client".to_owned()]);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let verifier =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
        let verifier = if client { verifier } else { verifier.allow_unauthenticated() }.build().unwrap();
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![cert.der().clone()], der)
            .unwrap();
        Tls {
            ca_pem: ca.pem(),
            client_cert_pem: client_cert.pem(),
            client_key_pem: client_key.serialize_pem(),
            server: Arc::new(server),
        }
    }
}

impl Fake {
    /// Serves on a free port of 127.0.0.1.
    pub fn listen(&self) -> Listener {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        self.serve_tcp(listener, address, None)
    }

    /// Serves TLS on a free port.
    pub fn listen_tls(&self, tls: &Tls) -> Listener {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        self.serve_tcp(listener, address, Some(TlsAcceptor::from(Arc::clone(&tls.server))))
    }

    /// Serves on a unix socket that is made at `path`.
    pub fn listen_unix(&self, path: &Path) -> Listener {
        let listener = std::os::unix::net::UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        let fake = self.clone();
        on_a_thread(format!("unix://{}", path.display()), async move {
            let listener = tokio::net::UnixListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(fake.clone().connection(stream, None));
            }
        })
    }

    fn serve_tcp(&self, listener: std::net::TcpListener, address: String, tls: Option<TlsAcceptor>) -> Listener {
        listener.set_nonblocking(true).unwrap();
        let fake = self.clone();
        on_a_thread(address, async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let (fake, tls) = (fake.clone(), tls.clone());
                tokio::spawn(async move {
                    let Some(tls) = tls else { return fake.connection(stream, None).await };
                    // A client that does not like our certificate goes away by itself.
                    let Ok(stream) = tls.accept(stream).await else { return };
                    let shown = stream.get_ref().1.peer_certificates().and_then(|all| all.first());
                    let shown = shown.map(|cert| cert.as_ref().to_vec());
                    fake.connection(stream, shown).await;
                });
            }
        })
    }

    async fn connection(self, stream: impl AsyncRead + AsyncWrite + Unpin, cert: Option<Vec<u8>>) {
        let service = service_fn(|request: hyper::Request<Incoming>| {
            let (fake, cert) = (self.clone(), cert.clone());
            async move {
                let request = taken(request, cert).await?;
                let response = fake.answer(request).await;
                given(response)
            }
        });
        // Ends with an error wherever a fault was asked for.
        let _ended = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }
}

fn on_a_thread(address: String, serving: impl Future<Output = ()> + Send + 'static) -> Listener {
    let (stop, stopped) = oneshot::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            tokio::select! {
                () = serving => {}
                _ = stopped => {}
            }
        });
    });
    Listener { address, _stop: stop }
}

async fn taken(request: hyper::Request<Incoming>, cert: Option<Vec<u8>>) -> Result<Request, std::io::Error> {
    let (parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
    let mut taken = Request::new(parts.method.as_str(), target);
    for (name, value) in &parts.headers {
        taken.headers.push((name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()));
    }
    taken.body = body.collect().await.map_err(std::io::Error::other)?.to_bytes().to_vec();
    taken.client_cert = cert;
    Ok(taken)
}

fn given(response: Response) -> Result<hyper::Response<Sent>, std::io::Error> {
    if response.fate == Fate::Closed {
        return Err(std::io::Error::other("closed as scripted"));
    }
    let mut builder = hyper::Response::builder().status(response.status);
    for (name, value) in &response.headers {
        builder = builder.header(name, value);
    }
    let whole = response.body.len() as u64;
    let (body, cut) = match response.fate {
        Fate::Cut(at) => (response.body[..at.min(response.body.len().saturating_sub(1))].to_vec(), true),
        _ => (response.body, false),
    };
    let body = Sent { body: Some(Bytes::from(body)), whole, cut };
    builder.body(body).map_err(std::io::Error::other)
}

/// A body that says how long it is, and may end before that.
struct Sent {
    body: Option<Bytes>,
    whole: u64,
    cut: bool,
}

impl hyper::body::Body for Sent {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.body.take().filter(|body| !body.is_empty()) {
            Some(body) => Poll::Ready(Some(Ok(Frame::data(body)))),
            None if self.cut => Poll::Ready(Some(Err(std::io::Error::other("cut as scripted")))),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none() && !self.cut
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.whole)
    }
}
