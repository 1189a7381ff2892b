//! An HTTP server that answers with what it was asked: the most talkative upstream there is.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// Answers 403 to paths under `/refuse`, 500 to questions after health that hold `poison`, else 200; always with the whole request as
/// header and body. Keeps what it was asked.
pub struct Echo {
    pub address: SocketAddr,
    requests: Arc<Mutex<String>>,
}

impl Echo {
    pub fn start() -> Echo {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests: Arc<Mutex<String>> = Arc::default();
        let log = Arc::clone(&requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let log = Arc::clone(&log);
                std::thread::spawn(move || answer(stream, &log));
            }
        });
        Echo { address, requests }
    }

    pub fn requests(&self) -> String {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(mut stream: TcpStream, log: &Mutex<String>) -> Option<()> {
    let mut request = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                break;
            }
        }
        match stream.read(&mut buffer).ok()? {
            0 => return None,
            n => request.extend_from_slice(&buffer[..n]),
        }
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    log.lock().unwrap().push_str(&text);
    let status = match () {
        () if text.contains("/refuse") => "403 Forbidden",
        () if text.starts_with("POST /health") && text.contains("poison") => "500 Internal Server Error",
        () => "200 OK",
    };
    let line = text.lines().next().unwrap_or_default();
    let heads: String = text.lines().filter(|l| l.starts_with("x-")).map(|l| format!("{l}\r\n")).collect();
    let answer = format!("HTTP/1.1 {status}\r\nx-asked: {line}\r\n{heads}content-length: {}\r\n\r\n{text}", text.len());
    stream.write_all(answer.as_bytes()).ok()
}
