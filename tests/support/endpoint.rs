//! An HTTP endpoint of the test's own: it accepts the keys that it is told to, and remembers what it was asked.
#![allow(dead_code, reason = "every test uses its own part")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// One request: path and the value of its `x-key` header.
pub type Asked = (String, String);

#[derive(Default)]
struct Inner {
    accepted: BTreeSet<String>,
    refusal: u16,
    hanging: BTreeSet<String>,
    asked: Vec<Asked>,
    held: Vec<TcpStream>,
}

/// Answers until the test ends.
#[derive(Clone)]
pub struct Endpoint {
    pub port: u16,
    inner: Arc<Mutex<Inner>>,
}

impl Endpoint {
    /// Accepts these values of `x-key` with 200, others are refused with 403.
    pub fn accepting(keys: &[&str]) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let inner = Inner { refusal: 403, ..Inner::default() };
        let endpoint = Endpoint { port, inner: Arc::new(Mutex::new(inner)) };
        endpoint.accept(keys);
        let serving = endpoint.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let serving = serving.clone();
                std::thread::spawn(move || serving.answer(stream));
            }
        });
        endpoint
    }

    /// From now on these, and no others.
    pub fn accept(&self, keys: &[&str]) {
        self.inner.lock().unwrap().accepted = keys.iter().map(|k| (*k).to_owned()).collect();
    }

    /// Refuses with this status from now on.
    pub fn refuse_with(&self, status: u16) {
        self.inner.lock().unwrap().refusal = status;
    }

    /// Does not answer requests of this path until it is told to.
    pub fn hang(&self, path: &str) {
        self.inner.lock().unwrap().hanging.insert(path.to_owned());
    }

    /// Answers again; connections that wait are closed.
    pub fn go_on(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.hanging.clear();
        inner.held.clear();
    }

    /// What it was asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.inner.lock().unwrap().asked.clone()
    }

    /// How often it was asked with this key.
    pub fn times(&self, key: &str) -> usize {
        self.asked().iter().filter(|(_, k)| k == key).count()
    }

    /// How often it was asked for this path.
    pub fn times_of(&self, path: &str) -> usize {
        self.asked().iter().filter(|(p, _)| p == path).count()
    }

    /// A `health` that asks this endpoint with the key of `provider`. `within` bounds only what is refused.
    pub fn health(&self, path: &str) -> String {
        format!(
            "{{type: http, url: 'http://127.0.0.1:{}{path}', headers: {{x-key: '{{{{ secrets.provider.key }}}}'}}, \
             interval: 50ms, timeout: 20s, within: 300ms}}",
            self.port
        )
    }

    fn answer(&self, stream: TcpStream) {
        let mut reader = BufReader::new(&stream);
        let (mut path, mut key, mut line) = (String::new(), String::new(), String::new());
        while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("x-key")
            {
                key = value.trim().to_owned();
            }
            line.clear();
        }
        let mut inner = self.inner.lock().unwrap();
        inner.asked.push((path.clone(), key.clone()));
        if inner.hanging.contains(&path) {
            let held = stream.try_clone().unwrap();
            inner.held.push(held);
            return;
        }
        let status = if inner.accepted.contains(&key) { 200 } else { inner.refusal };
        drop(inner);
        let _gone = write!(&stream, "HTTP/1.1 {status} X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    }
}
