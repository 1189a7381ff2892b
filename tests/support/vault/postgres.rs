//! A PostgreSQL of the test's own, behind the database engine of a real server.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::ports::free_port;
use super::real::Kept;

/// Listens on 127.0.0.1; its superuser is `postgres`. Ends with the test binary, and its folder with it.
pub struct Postgres {
    bin: PathBuf,
    port: u16,
    _server: Kept,
}

const PASSWORD: &str = "of-the-superuser";

impl Postgres {
    /// None, with a line `NOTE: …`, where PostgreSQL is not installed.
    pub fn start() -> Option<Postgres> {
        let Some(bin) = programs() else {
            eprintln!("NOTE: no database behind the real server: neither initdb nor /usr/lib/postgresql is there");
            return None;
        };
        let temp = tempfile::tempdir().unwrap().keep();
        // It refuses to run as root.
        let user = nix::unistd::geteuid().is_root().then(|| {
            let named = |name: &str| nix::unistd::User::from_name(name).ok().flatten();
            let user = named("postgres").or_else(|| named("nobody")).expect("a user that is not root");
            (user.uid.as_raw(), user.gid.as_raw())
        });
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(&temp, Some(uid), Some(gid)).unwrap();
        }
        let lower = |command: &mut Command| {
            if let Some((uid, gid)) = user {
                command.uid(uid).gid(gid);
            }
            command.env("LC_ALL", "C");
        };
        std::fs::write(temp.join("pw"), PASSWORD).unwrap();
        let mut initdb = Command::new(bin.join("initdb"));
        initdb.args(["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "-N", "--pwfile"]).arg(temp.join("pw"));
        initdb.arg("-D").arg(temp.join("data")).current_dir(&temp).stdin(Stdio::null());
        lower(&mut initdb);
        let made = initdb.output().unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let program = bin.join("postgres");
        let (data, port_text) = (temp.join("data"), port.to_string());
        let argv = [
            program.to_str().unwrap(),
            "-D",
            data.to_str().unwrap(),
            "-p",
            &port_text,
            "-k",
            "",
            "-c",
            "fsync=off",
            "-c",
            "listen_addresses=127.0.0.1",
            "-c",
            "max_connections=50",
        ];
        let server = Kept::start(&temp, "QUIT", &argv, lower);
        let postgres = Postgres { bin, port, _server: server };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !postgres.accepts("postgres", PASSWORD) {
            let log = || std::fs::read_to_string(temp.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(postgres)
    }

    /// `postgresql://LOGIN@…`
    pub fn url(&self, login: &str) -> String {
        format!("postgresql://{login}@127.0.0.1:{}/postgres?sslmode=disable", self.port)
    }

    pub fn password(&self) -> &str {
        PASSWORD
    }

    /// True while this user may log in.
    pub fn accepts(&self, user: &str, password: &str) -> bool {
        self.psql(user, password, "SELECT 1").is_ok()
    }

    /// Runs SQL as the superuser.
    pub fn run(&self, sql: &str) {
        self.psql("postgres", PASSWORD, sql).unwrap();
    }

    fn psql(&self, user: &str, password: &str, sql: &str) -> Result<(), String> {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args([
            "-X",
            "-w",
            "-h",
            "127.0.0.1",
            "-p",
            &self.port.to_string(),
            "-U",
            user,
            "-d",
            "postgres",
            "-c",
            sql,
        ]);
        let output = psql.env("PGPASSWORD", password).stdin(Stdio::null()).output().unwrap();
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }
}

/// The folder with PostgreSQL's own programs: where `initdb` on PATH really is, or the newest below /usr/lib/postgresql.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let on_path = std::env::split_paths(&path)
        .filter_map(|dir| dir.join("initdb").canonicalize().ok())
        .filter_map(|program| program.parent().map(Path::to_owned));
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut packaged: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    packaged.sort();
    let all = ["initdb", "postgres", "psql"];
    on_path.chain(packaged.into_iter().rev()).find(|dir| all.iter().all(|program| dir.join(program).exists()))
}
