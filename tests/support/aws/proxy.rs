//! A proxy that opens tunnels, and is AWS at their ends: it speaks TLS as the host that was asked for, and passes what it is
//! asked to a server of ours.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::wire::Message;

pub struct Proxy {
    pub port: u16,
    /// The certificate that signs, as PEM.
    pub trust: String,
    tunnels: Arc<Mutex<Vec<(String, String)>>>,
}

impl Proxy {
    /// Whoever asks for one of these hosts gets to the server at `port`.
    pub fn start(hosts: &[&str], port: u16) -> Proxy {
        let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
        let made = rcgen::generate_simple_self_signed(hosts).unwrap();
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
        let tls = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.into())
            .unwrap();
        let (listener, tls) = (super::ports::listener(), Arc::new(tls));
        let proxy =
            Proxy { port: listener.local_addr().unwrap().port(), trust: made.cert.pem(), tunnels: Arc::default() };
        let tunnels = Arc::clone(&proxy.tunnels);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (tunnels, tls) = (Arc::clone(&tunnels), Arc::clone(&tls));
                std::thread::spawn(move || tunnel(&tunnels, tls, stream, port));
            }
        });
        proxy
    }

    /// What tunnels were asked for, each with its Proxy-Authorization.
    pub fn tunnels(&self) -> Vec<(String, String)> {
        self.tunnels.lock().unwrap().clone()
    }
}

fn tunnel(tunnels: &Mutex<Vec<(String, String)>>, tls: Arc<ServerConfig>, mut stream: TcpStream, port: u16) {
    let Some(asked) = Message::read(&mut BufReader::new(stream.try_clone().unwrap())) else { return };
    tunnels.lock().unwrap().push((asked.first.clone(), asked.header("proxy-authorization").to_owned()));
    if !asked.first.starts_with("CONNECT ") || stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").is_err() {
        return;
    }
    let mut client = BufReader::new(StreamOwned::new(ServerConnection::new(tls).unwrap(), stream));
    let mut server = BufReader::new(TcpStream::connect(("127.0.0.1", port)).unwrap());
    while let Some(request) = Message::read(&mut client) {
        server.get_mut().write_all(&request.bytes()).unwrap();
        let Some(answer) = Message::read(&mut server) else { return };
        if client.get_mut().write_all(&answer.bytes()).is_err() {
            return;
        }
    }
}
