//! Who gives credentials where AWS runs the machine: the container's endpoint (ECS, EKS Pod Identity), the instance's
//! metadata (IMDSv2), and the portal of SSO. Each gives keys of its own, and only to those who ask as they must.

use std::io::{BufReader, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};

use serde_json::json;

use super::wire::Message;

/// The access keys by who gives them.
pub const CONTAINER: &str = "ASIAOFTHECONTAINER";
pub const INSTANCE: &str = "ASIAOFTHEINSTANCE";
pub const PORTAL: &str = "ASIAOFTHEPORTAL";
/// What the container's endpoint wants as Authorization, and the portal as its bearer's token.
pub const TOKEN: &str = "a-token-of-the-one-who-asks";

const OF_IMDS: &str = "a-session-with-imds";

pub struct Providers {
    pub port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Providers {
    pub fn start() -> Providers {
        let listener = super::ports::listener();
        let providers = Providers { port: listener.local_addr().unwrap().port(), asked: Arc::default() };
        let asked = Arc::clone(&providers.asked);
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let asked = Arc::clone(&asked);
                std::thread::spawn(move || serve(&asked, stream));
            }
        });
        providers
    }

    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The first lines of what was asked.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(asked: &Mutex<Vec<String>>, mut stream: TcpStream) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    while let Some(request) = Message::read(&mut reader) {
        asked.lock().unwrap().push(request.first.clone());
        let (status, body) = answer(&request).unwrap_or((401, String::new()));
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\nx-aws-ec2-metadata-token-ttl-seconds: 21600\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
            break;
        }
    }
}

fn keys(key: &str) -> serde_json::Value {
    json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2024-01-01T00:00:00Z", "AccessKeyId": key,
        "SecretAccessKey": "secret/key+of/a/provider-zQ7xv9", "Token": "session/token+of/a/provider==zQ7xv9",
        "Expiration": "2099-01-01T00:00:00Z",
    })
}

/// None: not to this one.
fn answer(request: &Message) -> Option<(u16, String)> {
    let is = |name: &str, value: &str| (request.header(name) == value).then_some(());
    let path = request.first.split(' ').nth(1).unwrap_or_default();
    match path.split('?').next().unwrap_or_default() {
        "/container" => is("authorization", TOKEN).map(|()| (200, keys(CONTAINER).to_string())),
        "/latest/api/token" if request.first.starts_with("PUT ") => Some((200, OF_IMDS.to_owned())),
        "/latest/meta-data/iam/security-credentials/" => {
            is("x-aws-ec2-metadata-token", OF_IMDS).map(|()| (200, "app".to_owned()))
        }
        "/latest/meta-data/iam/security-credentials/app" => {
            is("x-aws-ec2-metadata-token", OF_IMDS).map(|()| (200, keys(INSTANCE).to_string()))
        }
        "/federation/credentials" => {
            is("x-amz-sso_bearer_token", TOKEN)?;
            let keys = json!({
                "accessKeyId": PORTAL, "secretAccessKey": "secret/key+of/the/portal-zQ7xv9",
                "sessionToken": "session/token+of/the/portal==zQ7xv9", "expiration": 4_070_908_800_000_u64,
            });
            Some((200, json!({"roleCredentials": keys}).to_string()))
        }
        _ => Some((404, String::new())),
    }
}
