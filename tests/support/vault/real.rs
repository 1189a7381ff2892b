//! A real `vault` or `bao`, as `VAULT_BIN` names it: a dev server that ends with the test binary.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;

use super::postgres::Postgres;
use super::server::{Database, VaultServer};
use super::wire::{Request, Response};

/// Ends a child and removes its folder once our end of its standard input is closed: by a drop, or by our own end, however
/// it comes. (Statics are never dropped, and SIGKILL leaves no time.)
const KEEPER: &str = r#"dir=$1 signal=$2; shift 2
"$@" </dev/null >"$dir/log" 2>&1 & child=$!
read -r _end
kill -s "$signal" "$child" 2>/dev/null; wait "$child"; rm -rf "$dir""#;

/// A child that ends with us, and its folder with it.
pub struct Kept(Child);

impl Kept {
    /// Runs `argv` with its output in `DIR/log`. `signal` ends it.
    pub fn start(dir: &Path, signal: &str, argv: &[&str], prepare: impl FnOnce(&mut Command)) -> Kept {
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER, "sh"]).arg(dir).arg(signal).args(argv);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir(dir);
        prepare(&mut command);
        Kept(command.spawn().unwrap())
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ended = self.0.wait();
    }
}

/// The real one.
pub struct Real {
    name: String,
    address: String,
    database: OnceLock<Option<Postgres>>,
    _server: Kept,
}

const ROOT: &str = "root-of-the-tests";

impl Real {
    /// Starts it and waits until it answers. None without `VAULT_BIN`; a `VAULT_BIN` that does not work fails the test.
    pub fn start() -> Option<Real> {
        let binary = PathBuf::from(std::env::var_os("VAULT_BIN").filter(|path| !path.is_empty())?);
        let name = binary.file_name().unwrap().to_string_lossy().into_owned();
        let port = super::ports::free_port();
        let dir = tempfile::tempdir().unwrap().keep();
        let binary = binary.canonicalize().unwrap_or(binary);
        let listen = format!("-dev-listen-address=127.0.0.1:{port}");
        let root = format!("-dev-root-token-id={ROOT}");
        let argv = [binary.to_str().unwrap(), "server", "-dev", "-dev-no-store-token", &root, &listen];
        let server = Kept::start(&dir, "KILL", &argv, |command| {
            command.env("HOME", &dir).env_remove("VAULT_ADDR").env_remove("BAO_ADDR").env_remove("VAULT_TOKEN");
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        while !answers(port) {
            let log = || std::fs::read_to_string(dir.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{} does not answer: {}", binary.display(), log());
            std::thread::sleep(Duration::from_millis(20));
        }
        let address = format!("http://127.0.0.1:{port}");
        Some(Real { name, address, database: OnceLock::new(), _server: server })
    }

    fn postgres(&self) -> Option<&Postgres> {
        self.database.get_or_init(Postgres::start).as_ref()
    }
}

/// True once `sys/health` says 200.
fn answers(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    let asked = stream.write_all(b"GET /v1/sys/health HTTP/1.0\r\n\r\n");
    let mut answer = String::new();
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains(" 200 ")
}

impl VaultServer for Real {
    fn name(&self) -> &str {
        &self.name
    }

    fn address(&self) -> &str {
        &self.address
    }

    fn root_token(&self) -> &str {
        ROOT
    }

    fn send(&self, request: Request) -> BoxFuture<'_, Response> {
        Box::pin(super::http::send(&self.address, request))
    }

    fn database(&self) -> Option<Database> {
        let postgres = self.postgres()?;
        Some(Database {
            connection_url: postgres.url("{{username}}:{{password}}"),
            username: "postgres".to_owned(),
            password: postgres.password().to_owned(),
        })
    }

    fn database_accepts(&self, user: &str, password: &str) -> bool {
        self.postgres().unwrap().accepts(user, password)
    }

    fn make_database_user(&self, user: &str) {
        self.postgres().unwrap().run(&format!("CREATE ROLE \"{user}\" WITH LOGIN PASSWORD 'of no one'"));
    }
}
