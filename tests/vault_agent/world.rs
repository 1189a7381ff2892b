//! An agent with a supervised child, and the Vault behind it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::agent::{Agent, DEADLINE};
use crate::vault::fake::Fake;
use crate::vault::fake::counts::Kind;
use crate::vault::server::{FakeServer, VaultServer, servers, unique};

/// Runs on every server there is, on each in a thread of its own: they wait more than they work.
pub fn each(run: impl Fn(Vault) + Sync) {
    let run = &run;
    std::thread::scope(|scope| {
        let threads: Vec<_> =
            servers().into_iter().map(|server| scope.spawn(move || run(Vault::new(server)))).collect();
        for thread in threads {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// A server, and a runtime to ask it with.
pub struct Vault {
    pub server: Arc<dyn VaultServer>,
    runtime: Runtime,
}

/// A way to log in that is nobody else's.
pub struct Login {
    pub mount: String,
    pub role_id: String,
    pub secret_id: String,
}

/// Credentials, as the child took them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Creds {
    pub user: String,
    pub password: String,
}

impl Vault {
    pub fn new(server: Arc<dyn VaultServer>) -> Vault {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Vault { server, runtime }
    }

    /// A fake of the test's own.
    pub fn fake() -> Vault {
        Vault::new(Arc::new(FakeServer::new(Fake::new())))
    }

    /// Asks the server something.
    pub fn on<T>(&self, ask: impl AsyncFnOnce(&dyn VaultServer) -> T) -> T {
        self.runtime.block_on(ask(&*self.server))
    }

    /// An AppRole whose tokens may do everything.
    pub fn login(&self) -> Login {
        self.on(async |s| {
            let policy = unique("policy");
            s.policy(
                &policy,
                "path \"*\" { capabilities = [\"create\", \"read\", \"update\", \"delete\", \"list\", \"sudo\"] }\n\
                 path \"+/data/forbidden\" { capabilities = [\"deny\"] }\n\
                 path \"+/metadata/forbidden\" { capabilities = [\"deny\"] }",
            )
            .await;
            let mount = s.approle(json!({"token_policies": [policy], "token_ttl": "1h", "token_max_ttl": "4h"})).await;
            Login { role_id: s.role_id(&mount).await, secret_id: s.secret_id(&mount).await, mount }
        })
    }

    /// A database mount with the role `app`; None, with a line that says so, where there is no database.
    pub fn database(&self, ttl: &str, longest: &str) -> Option<String> {
        self.on(async |s| {
            let mount = s.database_mount().await?;
            s.database_role(&mount, "app", ttl, longest).await;
            Some(mount)
        })
    }

    pub fn accepts(&self, creds: &Creds) -> bool {
        self.server.database_accepts(&creds.user, &creds.password)
    }

    pub fn leases(&self, prefix: &str) -> Vec<String> {
        self.on(async |s| s.leases(prefix).await)
    }

    /// Whether a token lives, by its accessor.
    pub fn alive(&self, accessor: &str) -> bool {
        let body = json!({"accessor": accessor});
        self.on(async |s| s.call("POST", "auth/token/lookup-accessor", body).await.status == 200)
    }

    /// How often the fake was asked to make something; on a real server nobody counts.
    pub fn minted(&self) -> Option<usize> {
        self.server.fake().map(|fake| fake.counts().of(Kind::Mint))
    }

    pub fn logins(&self) -> Option<usize> {
        self.server.fake().map(|fake| fake.counts().of(Kind::Login))
    }
}

/// The agent in its folder. One target `app` of one file, one child that takes the file up.
pub struct World {
    pub agent: Agent,
    pub vault: Vault,
    _memory: Option<tempfile::TempDir>,
}

/// What a config says beside the defaults here.
pub struct Setup {
    /// By name.
    pub secrets: Value,
    pub conf: String,
    pub store: Value,
    pub target: Value,
    /// What else the config holds; targets beside `app`.
    pub rest: Value,
    /// Whether what is kept is sealed.
    pub key: bool,
    /// Whether the folder is in memory.
    pub memory: bool,
}

impl Setup {
    pub fn new(secrets: Value, conf: &str) -> Setup {
        let (store, target, rest) = (json!({}), json!({}), json!({}));
        Setup { secrets, conf: conf.to_owned(), store, target, rest, key: true, memory: false }
    }

    /// Credentials of a database role.
    pub fn creds(mount: &str) -> Setup {
        let secrets = json!({"db": {"store": "vault", "path": format!("{mount}/creds/app")}});
        Setup::new(secrets, "{{ secrets.db.username }}\n{{ secrets.db.password }}\n")
    }
}

/// Takes the file up, says so, and serves it until it is told to end.
const CHILD: &str = r#"
echo started >>starts
cp out/conf serving.next && mv serving.next serving
exec sleep 100000
"#;

/// Healthy: a child serves the file, nobody holds this back, and what it serves is accepted.
const WELL: &str = r#"
cmp -s out/conf serving || exit 1
read -r name <serving
echo "$name" >>asked
test ! -e hold || exit 2
test ! -e accept || grep -qxF -e "$name" accept || exit 3
"#;

/// Puts what is said over what is there; objects in objects are merged, too, where they are of one type.
fn merge(into: &mut Value, with: &Value) {
    for (name, value) in with.as_object().unwrap() {
        let other = value.get("type").is_some_and(|kind| *kind != into[name]["type"]);
        match into[name].is_object() && value.is_object() && !other {
            true => merge(&mut into[name], value),
            false => into[name] = value.clone(),
        }
    }
}

impl World {
    /// Writes everything, and starts nothing.
    pub fn new(vault: Vault, setup: &Setup) -> World {
        let mut login = vault.login();
        let mut agent = Agent::new("", "");
        let memory = setup.memory.then(|| tempfile::tempdir_in("/dev/shm").unwrap());
        if let Some(memory) = &memory {
            agent.dir = memory.path().canonicalize().unwrap();
            fs::create_dir(agent.dir.join("out")).unwrap();
        }
        let mut store = json!({
            "type": "vault", "address": vault.server.address(), "lease_check": "1s", "timeout": "5s",
            "limits": {"per_second": 200},
            "auth": {"type": "approle", "mount": login.mount.trim_start_matches("auth/"), "role_id_file": "role_id",
                "secret_id_file": "secret_id"},
        });
        merge(&mut store, &setup.store);
        if store["auth"]["wrapped"] == true {
            login.secret_id = vault.on(async |s| s.wrapped_secret_id(&login.mount, "10m").await);
        }
        let mut target = json!({
            "settle": {"min": "10ms", "max": "100ms"},
            "files": [{"path": "out/conf", "inline": setup.conf}],
            "reload": {"type": "exec", "command": ["sh", "child"], "cwd": ".", "on_change": "restart", "stop_timeout": "5s"},
            "health": {"type": "command", "run": ["sh", "well"], "interval": "20ms", "timeout": "20s", "within": "50s",
                "successes": 1},
        });
        merge(&mut target, &setup.target);
        let mut config = json!({
            "state_dir": "state", "stores": {"vault": store}, "secrets": setup.secrets, "targets": {"app": target},
        });
        merge(&mut config, &setup.rest);
        if setup.key {
            agent.state_key();
            config["state_key"] = json!({"file": "state.key"});
        }
        let world = World { agent, vault, _memory: memory };
        world.put("agent.yaml", &config.to_string());
        world.put("child", CHILD);
        world.put("well", WELL);
        world.put("role_id", &login.role_id);
        world.put("secret_id", &login.secret_id);
        world
    }

    /// A world whose agent runs, and whose child is healthy.
    pub fn started(vault: Vault, setup: &Setup) -> World {
        let mut world = World::new(vault, setup);
        world.agent.start();
        world.healthy();
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.agent.dir.join(name)
    }

    pub fn put(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let next = self.path(&format!(".{name}.next"));
        fs::write(&next, text).unwrap();
        fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(next, self.path(name)).unwrap();
    }

    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap();
    }

    /// Changes the config on the disk.
    pub fn configure(&self, change: impl FnOnce(&mut Value)) {
        let mut config: Value = serde_json::from_str(&self.agent.read("agent.yaml")).unwrap();
        change(&mut config);
        self.put("agent.yaml", &config.to_string());
    }

    #[track_caller]
    pub fn healthy(&mut self) {
        self.agent.wait_state("app", "healthy");
    }

    /// What the child has taken up, line by line.
    pub fn serving(&self) -> Vec<String> {
        self.agent.read("serving").lines().map(str::to_owned).collect()
    }

    /// The credentials that the child has taken up.
    pub fn creds(&self) -> Creds {
        let lines = self.serving();
        let line = |n: usize| lines.get(n).cloned().unwrap_or_default();
        Creds { user: line(0), password: line(1) }
    }

    /// How often a child was started.
    pub fn starts(&self) -> usize {
        self.agent.read("starts").lines().count()
    }

    /// Waits until the child serves something else, healthy and committed.
    #[track_caller]
    pub fn other_than(&mut self, before: &[String]) -> Vec<String> {
        let serving = self.path("serving");
        self.agent.wait("something else is served, and healthy", |a| {
            let lines: Vec<String> = fs::read_to_string(&serving).ok()?.lines().map(str::to_owned).collect();
            let well = a.target("app").is_some_and(|t| t["state"] == "healthy");
            (lines != before && well).then_some(lines)
        })
    }

    /// Waits until exactly so many leases live below a path, and answers them.
    #[track_caller]
    pub fn live(&self, prefix: &str, many: usize) -> Vec<String> {
        self.until(&format!("{many} leases below {prefix}"), |w| {
            let leases = w.vault.leases(prefix);
            (leases.len() == many).then_some(leases)
        })
    }

    /// Waits until this holds; shows the log where it never does.
    #[track_caller]
    pub fn until<T>(&self, what: &str, look: impl Fn(&World) -> Option<T>) -> T {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if let Some(seen) = look(self) {
                return seen;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!(
            "{}: never: {what}\nstatus: {:?}\nlog:\n{}",
            self.vault.server.name(),
            self.agent.status(),
            self.agent.log()
        );
    }

    /// What `status` says of a secret.
    pub fn secret(&self, name: &str) -> Option<Value> {
        let status = self.agent.status()?;
        status["secrets"].as_array()?.iter().find(|secret| secret["name"] == name).cloned()
    }

    /// The accessor of the token that the last session began with.
    #[track_caller]
    pub fn accessor(&self) -> String {
        let log = self.agent.log();
        let line = log.lines().rfind(|line| line.contains("session begun")).expect("a session has begun");
        // In a log of text, or of JSON.
        let rest = line.split("accessor").nth(1).unwrap().trim_start_matches(['=', '"', ':']);
        rest.split([' ', '"']).next().unwrap().to_owned()
    }

    /// Reads a secret anew, by its name.
    #[track_caller]
    pub fn refresh(&self, name: &str) {
        let (code, out, err) = self.agent.call(&["refresh", name]);
        assert_eq!(code, 0, "{out}{err}");
    }

    /// Whether the state directory is where values may be kept in the clear.
    pub fn in_memory(&self) -> bool {
        leasehold::state_dir::memory_backed(Path::new(&self.agent.dir))
    }
}
