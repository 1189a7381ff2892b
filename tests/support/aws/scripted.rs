//! A Secrets Manager (and STS, and a queue of SQS) that fails as it is told, counts what it is asked, and shows each operation another truth.

use std::collections::BTreeMap;
use std::io::{BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::model::{ACCOUNT, Failure, Labels, Secret, Secrets, Stored, failure};
use super::queue::Queue;
use super::wire::Message;

/// One request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub operation: String,
    /// As the request names them.
    pub secrets: Vec<String>,
    pub region: String,
    pub access_key: String,
    pub stage: Option<String>,
    pub version: Option<String>,
    pub at: Instant,
    /// The error's code, or `hang`, `close`, or empty.
    pub outcome: String,
}

/// What is done instead of an answer.
#[derive(Clone)]
pub enum Answer {
    /// Code and message.
    Error(&'static str, &'static str),
    /// Status and body.
    Raw(u16, &'static str),
    /// No answer until [`Scripted::clear`].
    Hang,
    /// The connection is closed.
    Close,
}

/// Which requests meet which answer, and how often. Of a batch, a rule with a secret and the operation GetSecretValue meets
/// that secret alone, one with BatchGetSecretValue the whole batch that it is in.
#[derive(Clone)]
pub struct Rule {
    operation: Option<&'static str>,
    secret: Option<String>,
    region: Option<String>,
    access_key: Option<String>,
    left: usize,
    answer: Answer,
}

/// A rule for every request to Secrets Manager.
pub fn every(answer: Answer) -> Rule {
    Rule { operation: None, secret: None, region: None, access_key: None, left: usize::MAX, answer }
}

/// A rule for this operation.
pub fn on(operation: &'static str, answer: Answer) -> Rule {
    Rule { operation: Some(operation), ..every(answer) }
}

pub const THROTTLED: Answer = Answer::Error("ThrottlingException", "Rate exceeded");
pub const DENIED: Answer =
    Answer::Error("AccessDeniedException", "User: arn:aws:iam::123456789012:user/app is not authorized");
pub const EXPIRED: Answer =
    Answer::Error("ExpiredTokenException", "The security token included in the request is expired");

impl Rule {
    pub fn times(mut self, times: usize) -> Rule {
        self.left = times;
        self
    }

    pub fn secret(mut self, name: &str) -> Rule {
        self.secret = Some(name.to_owned());
        self
    }

    pub fn region(mut self, region: &str) -> Rule {
        self.region = Some(region.to_owned());
        self
    }

    pub fn access_key(mut self, key: &str) -> Rule {
        self.access_key = Some(key.to_owned());
        self
    }

    fn meets(&self, operation: &str, secret: Option<&str>, asked: &Asked) -> bool {
        let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        // A rule for every GetSecretValue is not one for what a batch reads.
        let inner = operation != asked.operation && self.secret.is_none();
        let names = |wanted: &str, id: &str| id == wanted || id.contains(&format!(":secret:{wanted}"));
        self.left > 0
            && !inner
            && self.operation.map_or(!asked.operation.starts_with("sts:"), |wanted| wanted == operation)
            && self.secret.as_ref().is_none_or(|wanted| match secret {
                Some(secret) => names(wanted, secret),
                None => asked.secrets.iter().any(|secret| names(wanted, secret)),
            })
            && is(&self.region, &asked.region)
            && is(&self.access_key, &asked.access_key)
    }
}

#[derive(Default)]
struct State {
    secrets: Secrets,
    queue: Queue,
    rules: Vec<Rule>,
    asked: Vec<Asked>,
    connections: Vec<TcpStream>,
    made: u32,
    /// Counts [`Scripted::clear`]: what hung before goes on.
    cleared: u64,
    stopped: bool,
}

type Shared = Arc<(Mutex<State>, Condvar)>;

pub struct Scripted {
    pub port: u16,
    shared: Shared,
}

/// What a request leads to.
enum Done {
    Json(Value),
    Xml(String),
    Failed(Failure),
    Instead(Answer),
}

impl Scripted {
    pub fn start() -> Scripted {
        let listener = super::ports::listener();
        let port = listener.local_addr().unwrap().port();
        let scripted = Scripted { port, shared: Shared::default() };
        scripted.listen(listener);
        scripted
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn listen(&self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut state = shared.0.lock().unwrap();
                if state.stopped {
                    return;
                }
                state.connections.push(stream.try_clone().unwrap());
                let serving = Arc::clone(&shared);
                std::thread::spawn(move || serve(&serving, stream));
            }
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap()
    }

    /// From now on connections are refused, and those that are open end.
    pub fn down(&self) {
        let mut state = self.state();
        state.stopped = true;
        state.connections.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        drop(state);
        // The one who accepts wakes up, and is the last; then the port is nobody's.
        let _woken = TcpStream::connect(("127.0.0.1", self.port));
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
            assert!(Instant::now() < until, "it still accepts");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Serves again, on the same port.
    pub fn up(&self) {
        let listener = super::ports::listener_on(self.port);
        self.state().stopped = false;
        self.listen(listener);
    }

    /// Adds a rule; of several that meet a request, the newest is taken.
    pub fn rule(&self, rule: Rule) {
        self.state().rules.push(rule);
    }

    /// No rules any more; what hangs is closed.
    pub fn clear(&self) {
        let mut state = self.state();
        state.rules.clear();
        state.cleared += 1;
        self.shared.1.notify_all();
    }

    /// Changes a secret, which is made where it is not there.
    pub fn change<T>(&self, name: &str, change: impl FnOnce(&mut Secret) -> T) -> T {
        let mut state = self.state();
        let secret = state.secrets.0.entry(name.to_owned()).or_default();
        secret.name = name.to_owned();
        change(secret)
    }

    pub fn remove(&self, name: &str) {
        self.state().secrets.0.remove(name);
    }

    /// A fresh version at AWSCURRENT; answers its id.
    pub fn put(&self, name: &str, value: &Value) -> String {
        let id = self.fresh();
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        self.change(name, |secret| secret.current(&id, Stored::Text(text), 1.7e9));
        id
    }

    fn fresh(&self) -> String {
        let mut state = self.state();
        state.made += 1;
        format!("00000000-0000-4000-9000-{:012}", state.made)
    }

    /// The labels of now.
    pub fn labels(&self, name: &str) -> Labels {
        self.change(name, |secret| secret.labels.clone())
    }

    /// The queue that every URL here leads to.
    pub fn queue<T>(&self, with: impl FnOnce(&mut Queue) -> T) -> T {
        with(&mut self.state().queue)
    }

    /// What it was asked since the last [`Scripted::forget`].
    pub fn asked(&self) -> Vec<Asked> {
        self.state().asked.clone()
    }

    pub fn forget(&self) {
        self.state().asked.clear();
    }

    /// How often it was asked this.
    pub fn count(&self, operation: &str) -> usize {
        self.state().asked.iter().filter(|asked| asked.operation == operation).count()
    }

    /// How often Secrets Manager was asked anything.
    pub fn total(&self) -> usize {
        self.state().asked.iter().filter(|asked| !asked.operation.starts_with("sts:")).count()
    }

    /// Counts by operation, STS apart.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for asked in &self.state().asked {
            if !asked.operation.starts_with("sts:") {
                *counts.entry(asked.operation.clone()).or_default() += 1;
            }
        }
        counts
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.clear();
        let mut state = self.state();
        state.stopped = true;
        state.connections.drain(..).for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
        drop(state);
        let _woken = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(shared: &Shared, stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(request) = Message::read(&mut reader) {
        let (state, woken) = &**shared;
        let mut held = state.lock().unwrap();
        let cleared = held.cleared;
        let (status, kind, code, body) = match answer(&mut held, &request) {
            Done::Json(value) => (200, "application/x-amz-json-1.1", String::new(), value.to_string()),
            Done::Xml(text) => (200, "text/xml", String::new(), text),
            Done::Failed((status, code, message)) => {
                let body = json!({"__type": code, "Message": message}).to_string();
                (status, "application/x-amz-json-1.1", code, body)
            }
            Done::Instead(Answer::Raw(status, body)) => (status, "text/html", String::new(), body.to_owned()),
            Done::Instead(Answer::Hang) => {
                drop(woken.wait_while(held, |state| state.cleared == cleared && !state.stopped).unwrap());
                break;
            }
            Done::Instead(_) => break,
        };
        drop(held);
        if request.header("x-amz-target").starts_with("AmazonSQS.") {
            // A queue makes those wait who ask for what is not there.
            std::thread::sleep(Duration::from_millis(100));
        }
        let code = if code.is_empty() { code } else { format!("x-amzn-errortype: {code}\r\n") };
        let head =
            format!("HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\n{code}content-length: {}\r\n\r\n", body.len());
        if writer.write_all(format!("{head}{body}").as_bytes()).is_err() {
            break;
        }
    }
    let _closed = writer.shutdown(Shutdown::Both);
}

/// The credential's scope: access key and region.
fn scope(request: &Message) -> (String, String) {
    let authorization = request.header("authorization");
    let scope = authorization.split("Credential=").nth(1).unwrap_or_default();
    let mut parts = scope.split('/');
    let key = parts.next().unwrap_or_default().to_owned();
    (key, parts.nth(1).unwrap_or_default().to_owned())
}

fn answer(state: &mut State, request: &Message) -> Done {
    let (access_key, region) = scope(request);
    let target = request.header("x-amz-target");
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let text = |name: &str| body[name].as_str().map(str::to_owned);
    let listed = body["SecretIdList"].as_array().into_iter().flatten().filter_map(|id| id.as_str().map(str::to_owned));
    let secrets: Vec<String> = text("SecretId").into_iter().chain(listed).collect();
    let form = String::from_utf8_lossy(&request.body).into_owned();
    let action = form.split('&').find_map(|pair| pair.strip_prefix("Action=")).unwrap_or("nothing");
    let operation = match (target.strip_prefix("secretsmanager."), target.strip_prefix("AmazonSQS.")) {
        (Some(operation), _) => operation.to_owned(),
        (_, Some(operation)) => format!("sqs:{operation}"),
        _ => format!("sts:{action}"),
    };
    let (stage, version) = (text("VersionStage"), text("VersionId"));
    let at = Instant::now();
    let mut asked = Asked { operation, secrets, region, access_key, stage, version, at, outcome: String::new() };
    let done = decide(state, &asked, &body);
    asked.outcome = match &done {
        Done::Failed((_, code, _)) => code.clone(),
        Done::Instead(Answer::Hang) => "hang".to_owned(),
        Done::Instead(Answer::Close) => "close".to_owned(),
        Done::Instead(Answer::Raw(status, _)) => status.to_string(),
        _ => String::new(),
    };
    state.asked.push(asked);
    done
}

/// The newest rule that meets this.
fn ruled(rules: &mut [Rule], operation: &str, secret: Option<&str>, asked: &Asked) -> Option<Answer> {
    let rule = rules.iter_mut().rev().find(|rule| rule.meets(operation, secret, asked))?;
    rule.left = rule.left.saturating_sub(usize::from(rule.left != usize::MAX));
    Some(rule.answer.clone())
}

fn decide(state: &mut State, asked: &Asked, body: &Value) -> Done {
    let alone = asked.secrets.first().filter(|_| asked.operation != "BatchGetSecretValue");
    match ruled(&mut state.rules, &asked.operation, alone.map(String::as_str), asked) {
        Some(Answer::Error(code, message)) => return Done::Failed(failure(code, message)),
        Some(other) => return Done::Instead(other),
        None => {}
    }
    let region = asked.region.as_str();
    let found = match (asked.operation.as_str(), asked.secrets.first()) {
        ("DescribeSecret", Some(id)) => state.secrets.find(id, region).map(|secret| secret.describe(region)),
        ("GetSecretValue", Some(id)) => {
            let secret = state.secrets.find(id, region);
            secret.and_then(|secret| secret.value(region, asked.version.as_deref(), asked.stage.as_deref()))
        }
        ("BatchGetSecretValue", _) => Ok(batch(state, asked)),
        ("sqs:ReceiveMessage", _) => Ok(state.queue.receive()),
        ("sqs:DeleteMessageBatch", _) => Ok(state.queue.delete(body)),
        ("sts:GetCallerIdentity", _) => return Done::Xml(identity(&asked.access_key)),
        (operation, _) if operation.starts_with("sts:AssumeRole") => return Done::Xml(assumed(&operation[4..])),
        (operation, _) => Err(failure("UnknownOperationException", operation)),
    };
    found.map_or_else(Done::Failed, Done::Json)
}

fn batch(state: &mut State, asked: &Asked) -> Value {
    let (mut values, mut errors) = (Vec::new(), Vec::new());
    assert!(asked.secrets.len() <= 20, "AWS takes 20 at once: {}", asked.secrets.len());
    for id in &asked.secrets {
        let value = match ruled(&mut state.rules, "GetSecretValue", Some(id), asked) {
            Some(Answer::Error(code, message)) => Err(failure(code, message)),
            _ => state.secrets.find(id, &asked.region).and_then(|secret| secret.value(&asked.region, None, None)),
        };
        match value {
            Ok(value) => values.push(value),
            Err((_, code, message)) => {
                errors.push(json!({"SecretId": id, "ErrorCode": code, "Message": message}));
            }
        }
    }
    json!({"SecretValues": values, "Errors": errors})
}

fn identity(access_key: &str) -> String {
    format!(
        "<GetCallerIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><GetCallerIdentityResult>\
         <Arn>arn:aws:iam::{ACCOUNT}:user/app</Arn><UserId>{access_key}</UserId><Account>{ACCOUNT}</Account>\
         </GetCallerIdentityResult><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></GetCallerIdentityResponse>"
    )
}

/// The credentials of an assumed role.
pub const ASSUMED: [&str; 3] =
    ["ASIAASSUMED", "secret/key+of/the+assumed/role-zQ7xv9", "session/token+of/the/assumed/role==zQ7xv9"];

fn assumed(action: &str) -> String {
    let [key, secret, token] = ASSUMED;
    format!(
        "<{action}Response xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><{action}Result><Credentials>\
         <AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey><SessionToken>{token}</SessionToken>\
         <Expiration>2099-01-01T00:00:00Z</Expiration></Credentials><AssumedRoleUser>\
         <Arn>arn:aws:sts::{ACCOUNT}:assumed-role/app/leasehold</Arn><AssumedRoleId>AROA:leasehold</AssumedRoleId>\
         </AssumedRoleUser></{action}Result><ResponseMetadata><RequestId>1</RequestId></ResponseMetadata></{action}Response>"
    )
}
