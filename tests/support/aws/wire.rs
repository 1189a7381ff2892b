//! The plainest HTTP/1.1 there is, blocking: what a test asks moto, and what our own server is asked.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

/// A request, or an answer: the first line, the headers with their names in lower case, and the body.
pub struct Message {
    pub first: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, value)| value)
    }

    /// Reads one. None where the connection ends first.
    pub fn read(reader: &mut impl BufRead) -> Option<Message> {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end();
            if line.is_empty() && !lines.is_empty() {
                break;
            }
            lines.push(line.to_owned());
        }
        let headers: Vec<_> = lines[1..].iter().filter_map(|line| line.split_once(':')).collect();
        let headers = headers.into_iter().map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).collect();
        let mut message = Message { first: lines.swap_remove(0), headers, body: Vec::new() };
        let length = message.header("content-length").parse().unwrap_or(0);
        message.body.resize(length, 0);
        reader.read_exact(&mut message.body).ok()?;
        Some(message)
    }

    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let mut bytes = format!("{}\r\n{headers}\r\n", self.first).into_bytes();
        bytes.extend(&self.body);
        bytes
    }

    /// The status of an answer.
    pub fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0)
    }
}

/// Sends a request on a connection of its own.
pub fn send(port: u16, start: &str, headers: &[(&str, &str)], body: &str) -> std::io::Result<Message> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    let mut text = format!("{start} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
    stream.write_all(text.as_bytes())?;
    Message::read(&mut BufReader::new(stream)).ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
}
