//! The wire in memory: a client of the fake with no socket, and a book of what each agent asked.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustify::errors::ClientError;
use tokio::time::Instant;

use crate::vault::fake::Fake;
pub use crate::vault::fake::counts::Kind;
use crate::vault::fake::counts::kind;
use crate::vault::wire::{Fate, Request};

/// How long a request takes there and back.
const LATENCY: Duration = Duration::from_millis(5);

/// One request, whatever became of it.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Since the beginning of the book.
    pub at: Duration,
    pub agent: u32,
    pub kind: Kind,
    /// 0: nobody answered.
    pub status: u16,
}

/// What all agents asked, in order.
pub struct Book {
    origin: Instant,
    asked: Mutex<Vec<Asked>>,
    /// Connections are refused.
    pub cut: AtomicBool,
}

impl Book {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { origin: Instant::now(), asked: Mutex::default(), cut: AtomicBool::new(false) })
    }

    pub fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// Everything asked in `[from, to)`.
    pub fn between(&self, from: Duration, to: Duration) -> Stretch {
        let all = self.asked.lock().unwrap();
        let (first, last) = (all.partition_point(|a| a.at < from), all.partition_point(|a| a.at < to));
        Stretch { from, to, asked: all[first..last].to_vec() }
    }

    pub fn all(&self) -> Stretch {
        self.between(Duration::ZERO, Duration::MAX)
    }
}

/// A part of the book.
pub struct Stretch {
    pub from: Duration,
    pub to: Duration,
    pub asked: Vec<Asked>,
}

impl Stretch {
    pub fn total(&self) -> usize {
        self.asked.len()
    }

    pub fn of(&self, kind: Kind) -> usize {
        self.asked.iter().filter(|asked| asked.kind == kind).count()
    }

    /// How many agents were answered a request of this kind.
    pub fn agents(&self, kind: Kind) -> usize {
        let answered = self.asked.iter().filter(|asked| asked.kind == kind && asked.status == 200);
        answered.map(|asked| asked.agent).collect::<std::collections::BTreeSet<_>>().len()
    }

    /// The fewest and the most that one of so many agents asked of this kind (None: of any).
    pub fn each(&self, agents: u32, kind: Option<Kind>) -> (usize, usize) {
        let mut counts = vec![0; agents as usize];
        for asked in self.asked.iter().filter(|asked| kind.is_none_or(|kind| asked.kind == kind)) {
            counts[asked.agent as usize] += 1;
        }
        (counts.iter().copied().min().unwrap(), counts.iter().copied().max().unwrap())
    }

    /// Requests a second on the average.
    pub fn mean(&self) -> f64 {
        self.total() as f64 / (self.to - self.from).as_secs_f64()
    }

    /// Requests a second in the busiest stretch of `window`, wherever it begins.
    pub fn peak(&self, window: Duration) -> f64 {
        let (mut first, mut peak) = (0, 0);
        for (last, asked) in self.asked.iter().enumerate() {
            while self.asked[first].at + window <= asked.at {
                first += 1;
            }
            peak = peak.max(last + 1 - first);
        }
        peak as f64 / window.as_secs_f64()
    }
}

/// One agent's client.
pub struct Line {
    pub fake: Fake,
    pub book: Arc<Book>,
    pub agent: u32,
}

impl Line {
    async fn exchange(&self, request: http::Request<Vec<u8>>) -> Option<http::Response<Vec<u8>>> {
        let (parts, body) = request.into_parts();
        let mut taken =
            Request::new(parts.method.as_str(), parts.uri.path_and_query().map_or("/", |target| target.as_str()));
        for (name, value) in &parts.headers {
            taken.headers.push((name.to_string(), value.to_str().unwrap().to_owned()));
        }
        taken.body = body;
        let kind = kind(&taken.method, &taken.path, taken.path.contains("/creds/"));
        let asked = Asked { at: self.book.now(), agent: self.agent, kind, status: 0 };
        let index = {
            let mut all = self.book.asked.lock().unwrap();
            all.push(asked);
            all.len() - 1
        };
        if self.book.cut.load(Ordering::Relaxed) {
            return None;
        }
        tokio::time::sleep(LATENCY).await;
        let answer = self.fake.answer(taken).await;
        if answer.fate != Fate::Whole {
            return None;
        }
        self.book.asked.lock().unwrap()[index].status = answer.status;
        let mut response = http::Response::builder().status(answer.status);
        for (name, value) in &answer.headers {
            response = response.header(name, value);
        }
        response.body(answer.body).ok()
    }
}

impl rustify::client::Client for Line {
    fn send<'life0, 'async_trait>(
        &'life0 self,
        request: http::Request<Vec<u8>>,
    ) -> Pin<Box<dyn Future<Output = Result<http::Response<Vec<u8>>, ClientError>> + Send + 'async_trait>>
    where
        'life0: 'async_trait,
        Self: 'async_trait,
    {
        Box::pin(async move {
            let answer = tokio::time::timeout(Duration::from_secs(30), self.exchange(request)).await;
            let refused = || ClientError::GenericError {
                source: std::io::Error::from(std::io::ErrorKind::ConnectionRefused).into(),
            };
            answer.ok().flatten().ok_or_else(refused)
        })
    }

    fn base(&self) -> &str {
        "http://vault:8200"
    }
}
