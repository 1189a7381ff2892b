//! What a test makes go wrong.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;

use super::super::wire::{Fate, Request, Response};

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// This answer, and the request has no effect.
    Answer { status: u16, body: Value, headers: Vec<(String, String)> },
    /// Waits (tokio's time), then answers as it should.
    Delay(Duration),
    /// Never answers.
    Hang,
    /// The request takes effect; its answer breaks off after so many bytes.
    Cut(usize),
    /// The request takes effect; the answer is 200 with a body that is not JSON.
    Malformed,
    /// 307 to this URL.
    Redirect(String),
    /// The connection is closed with no answer, and the request has no effect.
    Close,
    /// The request takes effect, and then the connection is closed with no answer.
    CloseAfter,
}

impl Fault {
    /// `{"errors": [error]}` with this status.
    pub fn status(status: u16, error: &str) -> Fault {
        Fault::Answer { status, body: serde_json::json!({ "errors": [error] }), headers: Vec::new() }
    }

    /// The answer that stands in for the right one, if it does.
    pub(super) fn instead(&self) -> Option<Response> {
        match self {
            Fault::Answer { status, body, headers } => {
                let mut response = Response::json(*status, body);
                response.headers.extend(headers.iter().cloned());
                Some(response)
            }
            Fault::Redirect(to) => {
                let headers = vec![("location".to_owned(), to.clone())];
                Some(Response { status: 307, headers, ..Response::default() })
            }
            Fault::Close => Some(Response { fate: Fate::Closed, ..Response::default() }),
            Fault::Delay(_) | Fault::Hang | Fault::Cut(_) | Fault::Malformed | Fault::CloseAfter => None,
        }
    }

    /// What becomes of the right answer.
    pub(super) fn spoil(&self, mut response: Response) -> Response {
        match self {
            Fault::Cut(at) => response.fate = Fate::Cut(*at),
            Fault::Malformed => {
                response.status = 200;
                response.body = b"{\"data\": {\"half\": ".to_vec();
            }
            Fault::CloseAfter => response.fate = Fate::Closed,
            _ => {}
        }
        response
    }
}

struct Scripted {
    method: String,
    prefix: String,
    left: u32,
    fault: Fault,
}

/// Faults in the order of their scripting: the first one that matches a request is taken.
#[derive(Default)]
pub struct Faults(Mutex<Vec<Scripted>>);

impl Faults {
    /// The next `times` requests, whichever.
    pub fn next(&self, times: u32, fault: Fault) {
        self.next_on("", "", times, fault);
    }

    /// The next `times` requests of this method ("" is any) whose path (after `/v1/`) begins with `prefix`.
    pub fn next_on(&self, method: &str, prefix: &str, times: u32, fault: Fault) {
        let (method, prefix) = (method.to_owned(), prefix.to_owned());
        self.0.lock().unwrap().push(Scripted { method, prefix, left: times, fault });
    }

    /// Every request from now on, until `clear`.
    pub fn always(&self, fault: Fault) {
        self.next(u32::MAX, fault);
    }

    /// All is well again.
    pub fn clear(&self) {
        self.0.lock().unwrap().clear();
    }

    pub(super) fn take(&self, request: &Request) -> Option<Fault> {
        let mut scripted = self.0.lock().unwrap();
        let matches = |s: &Scripted| {
            (s.method.is_empty() || s.method.eq_ignore_ascii_case(&request.method))
                && request.path.starts_with(&s.prefix)
        };
        let at = scripted.iter().position(matches)?;
        let fault = scripted[at].fault.clone();
        if scripted[at].left != u32::MAX {
            scripted[at].left -= 1;
        }
        scripted.retain(|s| s.left > 0);
        Some(fault)
    }
}
