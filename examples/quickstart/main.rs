//! The quick start's target: a small HTTP server that needs nothing but the standard library.
//!
//! It reads one file of `name = value` lines at start, `api_key` among them, and answers `GET /health` with 200 when the key
//! is one that it could work with (it starts with `demo-`), else with 503. It takes a change up only by being started anew.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, listen] = arguments.as_slice() else {
        eprintln!("usage: quickstart FILE HOST:PORT");
        return ExitCode::from(64);
    };
    match serve(file, listen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("quickstart: {message}");
            ExitCode::FAILURE
        }
    }
}

fn serve(file: &str, listen: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let key = value(&text, "api_key").ok_or_else(|| format!("{file}: no api_key"))?;
    let snapshot = value(&text, "snapshot").unwrap_or("none");
    let accepted = key.starts_with("demo-");
    let listener = TcpListener::bind(listen).map_err(|error| format!("{listen}: {error}"))?;
    println!(
        "quickstart: running with api_key {} (snapshot {snapshot}), {}",
        masked(key),
        if accepted { "accepted" } else { "NOT accepted: /health answers 503" },
    );
    for stream in listener.incoming() {
        // A client that went away is not the server's failure.
        let _ = stream.and_then(|stream| answer(stream, key, snapshot, accepted));
    }
    Ok(())
}

/// The value of a `name = value` line.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .find_map(|line| line.split_once('=').filter(|(left, _)| left.trim() == name))
        .map(|(_, right)| right.trim())
}

/// A key as it may be shown: its last four characters.
fn masked(key: &str) -> String {
    let skip = key.chars().count().saturating_sub(4);
    format!("…{}", key.chars().skip(skip).collect::<String>())
}

fn answer(mut stream: TcpStream, key: &str, snapshot: &str, accepted: bool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let (status, body) = match request.split(' ').nth(1) {
        Some("/health") if accepted => ("200 OK", "ok\n".to_owned()),
        Some("/health") => ("503 Service Unavailable", "the provider does not accept this key\n".to_owned()),
        Some("/") => ("200 OK", format!("api_key {}, snapshot {snapshot}\n", masked(key))),
        _ => ("404 Not Found", "no such path\n".to_owned()),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len(),
    )
}
