//! moto, the one of this test binary: started at the first question, ended with the binary. Tests share it, and use names of
//! their own.
//!
//! Where it differs from AWS: BatchGetSecretValue does not answer AWSCURRENT, but the version that was put last, whatever
//! UpdateSecretVersionStage did since. Tests that move labels have one secret a store, which is read by itself.

use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::wire::{Message, send};

pub const REGION: &str = "us-west-2";

/// Ends moto once our end of its standard input is closed: by our own end, however it comes.
const KEEPER: &str = r#"dir=$1; shift
"$@" </dev/null >"$dir/log" 2>&1 & child=$!
read -r _end
kill -KILL "$child" 2>/dev/null; wait "$child"; rm -rf "$dir""#;

pub struct Moto {
    pub port: u16,
    _keeper: Child,
}

/// The server. None, with a line that says so, where there is no Python with moto.
pub fn moto() -> Option<&'static Moto> {
    static MOTO: OnceLock<Option<Moto>> = OnceLock::new();
    let moto = MOTO.get_or_init(start).as_ref();
    if moto.is_none() {
        eprintln!("SKIP: AWS Secrets Manager as moto has it: LEASEHOLD_PYTHON names no Python (run ./scripts/test)");
        assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "required, but skipped");
    }
    moto
}

fn start() -> Option<Moto> {
    let python = std::env::var_os("LEASEHOLD_PYTHON").filter(|path| !path.is_empty())?;
    let port = super::ports::free_port();
    let dir = tempfile::tempdir().unwrap().keep();
    let mut command = Command::new("sh");
    command.args(["-c", KEEPER, "sh"]).arg(&dir).arg(python).args(["-m", "moto.server", "-p", &port.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let keeper = command.spawn().unwrap();
    let until = Instant::now() + Duration::from_secs(120);
    while send(port, "GET /moto-api/data.json", &[], "").is_err() {
        let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
        assert!(Instant::now() < until, "moto does not answer: {}", log());
        std::thread::sleep(Duration::from_millis(50));
    }
    let moto = Moto { port, _keeper: keeper };
    // Lambdas are answered for, not run: that would take docker.
    let config = json!({"lambda": {"use_docker": false}}).to_string();
    send(port, "POST /moto-api/config", &[("content-type", "application/json")], &config).unwrap();
    Some(moto)
}

/// A name that no other test uses.
pub fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    format!("{what}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A version id of this number.
pub fn version(number: u32) -> String {
    format!("00000000-0000-4000-8000-{number:012}")
}

impl Moto {
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn signed(&self, service: &str, start: &str, headers: &[(&str, &str)], body: &str) -> Message {
        let scope = format!("AKIDTEST/20260101/{REGION}/{service}/aws4_request");
        let authorization = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=00");
        let mut all = vec![("authorization", authorization.as_str())];
        all.extend(headers);
        send(self.port, start, &all, body).unwrap()
    }

    /// An operation of Secrets Manager: status and answer.
    pub fn try_call(&self, operation: &str, body: &Value) -> (u16, Value) {
        let target = format!("secretsmanager.{operation}");
        let headers = [("x-amz-target", target.as_str()), ("content-type", "application/x-amz-json-1.1")];
        let answer = self.signed("secretsmanager", "POST /", &headers, &body.to_string());
        (answer.status(), serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    /// The same, which must succeed.
    #[track_caller]
    pub fn call(&self, operation: &str, body: Value) -> Value {
        let (status, answer) = self.try_call(operation, &body);
        assert_eq!(status, 200, "{operation} {body}: {answer}");
        answer
    }

    /// Makes a secret of this text; answers its ARN.
    #[track_caller]
    pub fn create(&self, name: &str, text: &str) -> String {
        let made = self.call("CreateSecret", json!({"Name": name, "SecretString": text}));
        made["ARN"].as_str().unwrap().to_owned()
    }

    /// `put-secret-value`; answers the version's id.
    #[track_caller]
    pub fn put(&self, name: &str, text: &str) -> String {
        let token = version(NUMBER.fetch_add(1, Ordering::Relaxed));
        let body = json!({"SecretId": name, "SecretString": text, "ClientRequestToken": token});
        self.call("PutSecretValue", body);
        token
    }

    /// A version that is only pending; answers its id.
    #[track_caller]
    pub fn put_pending(&self, name: &str, text: &str) -> String {
        let token = version(NUMBER.fetch_add(1, Ordering::Relaxed));
        self.call(
            "PutSecretValue",
            json!({
                "SecretId": name, "SecretString": text, "ClientRequestToken": token, "VersionStages": ["AWSPENDING"],
            }),
        );
        token
    }

    /// `update-secret-version-stage`.
    #[track_caller]
    pub fn label(&self, name: &str, label: &str, to: Option<&str>, from: Option<&str>) {
        let mut body = json!({"SecretId": name, "VersionStage": label});
        to.into_iter().for_each(|id| body["MoveToVersionId"] = id.into());
        from.into_iter().for_each(|id| body["RemoveFromVersionId"] = id.into());
        self.call("UpdateSecretVersionStage", body);
    }

    /// The version with this label, by `describe-secret`.
    pub fn labelled(&self, name: &str, label: &str) -> Option<String> {
        let described = self.call("DescribeSecret", json!({"SecretId": name}));
        let versions = described["VersionIdsToStages"].as_object()?;
        let found = versions.iter().find(|(_, labels)| labels.as_array().is_some_and(|l| l.contains(&label.into())));
        found.map(|(id, _)| id.clone())
    }

    /// A lambda that does nothing when it is called; answers its ARN. The test does its work.
    pub fn lambda(&self) -> String {
        let role = unique("role");
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let body = format!("Action=CreateRole&Version=2010-05-08&RoleName={role}&AssumeRolePolicyDocument=%7B%7D");
        assert_eq!(self.signed("iam", "POST /", &form, &body).status(), 200);
        let function = json!({
            "FunctionName": unique("rotate"), "Runtime": "python3.12", "Handler": "rotate.handler",
            "Role": format!("arn:aws:iam::123456789012:role/{role}"),
            "Code": {"ZipFile": "UEsFBgAAAAAAAAAAAAAAAAAAAAAAAA=="},
        });
        let json = [("content-type", "application/json")];
        let made = self.signed("lambda", "POST /2015-03-31/functions", &json, &function.to_string());
        let made: Value = serde_json::from_slice(&made.body).unwrap();
        made["FunctionArn"].as_str().unwrap().to_owned()
    }
}

static NUMBER: AtomicU32 = AtomicU32::new(1);
