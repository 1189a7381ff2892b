//! An agent with a supervised child, and the AWS behind it.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::agent::{Agent, DEADLINE};

pub const ACCESS_KEY: &str = "AKIDOFTHEAGENT";
pub const SECRET_KEY: &str = "zQ7xv9/secret+key/of+the/agents/own==";

/// The most that the agent waits between two reads of a store that fails.
pub const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The agent in its folder. One target `app` of one file, one child that takes the file up.
pub struct World {
    pub agent: Agent,
}

/// What a config says beside the defaults here.
#[derive(Clone)]
pub struct Setup {
    /// By name.
    pub secrets: Value,
    pub conf: String,
    /// Of the store `aws`.
    pub store: Value,
    pub target: Value,
    /// What else the config holds; targets beside `app`.
    pub rest: Value,
}

impl Setup {
    pub fn new(secrets: Value, conf: &str) -> Setup {
        Setup { secrets, conf: conf.to_owned(), store: json!({}), target: json!({}), rest: json!({}) }
    }

    /// One secret `app` of this id, polled every second, of which `key` is served.
    pub fn one(id: &str) -> Setup {
        Setup::new(json!({"app": {"store": "aws", "id": id, "poll": "1s"}}), "{{ secrets.app.key }}\n")
    }

    /// The same, with the version before on a line of its own while its overlap (an hour) lasts.
    pub fn overlapping(id: &str) -> Setup {
        let conf = "{{ secrets.app.key }}\n{% if previous.app.key is defined %}{{ previous.app.key }}{% endif %}\n";
        Setup::new(json!({"app": {"store": "aws", "id": id, "poll": "1s", "overlap": "1h"}}), conf)
    }
}

/// Takes the file up, says so, and serves it until it is told to end.
const CHILD: &str = r#"
echo started >>starts
cp out/conf serving.next && mv serving.next serving
cat out/conf >>history && echo -- >>history
exec sleep 100000
"#;

/// Healthy: a child serves the file, and what it serves is accepted.
const WELL: &str = r#"
cmp -s out/conf serving || exit 1
test ! -e accept || grep -qxF -f accept serving || exit 3
"#;

/// Puts what is said over what is there; objects in objects are merged, too.
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
    /// Writes everything for an agent that finds AWS at this address, and starts nothing.
    pub fn new(address: &str, setup: &Setup) -> World {
        let mut agent = Agent::new("", "");
        let home = agent.dir.display().to_string();
        for (name, value) in [
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY),
            ("AWS_REGION", "us-west-2"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_ENDPOINT_URL", address),
            ("HOME", &home),
        ] {
            agent.env.push((name.to_owned(), value.to_owned()));
        }
        let mut store = json!({"type": "aws-secrets-manager"});
        merge(&mut store, &setup.store);
        let mut target = json!({
            "settle": {"min": "10ms", "max": "100ms"},
            "files": [{"path": "out/conf", "inline": setup.conf}],
            "reload": {"type": "exec", "command": ["sh", "child"], "cwd": ".", "on_change": "restart", "stop_timeout": "5s"},
            "health": {"type": "command", "run": ["sh", "well"], "interval": "20ms", "timeout": "20s", "within": "50s",
                "successes": 1},
        });
        merge(&mut target, &setup.target);
        let mut config = json!({
            "state_dir": "state", "stores": {"aws": store}, "secrets": setup.secrets, "targets": {"app": target},
            "state_key": {"file": "state.key"},
        });
        merge(&mut config, &setup.rest);
        agent.state_key();
        let world = World { agent };
        world.put("agent.yaml", &config.to_string());
        world.put("child", CHILD);
        world.put("well", WELL);
        world
    }

    /// A world whose agent runs, and whose child is healthy.
    #[track_caller]
    pub fn started(address: &str, setup: &Setup) -> World {
        let mut world = World::new(address, setup);
        world.agent.start();
        world.healthy();
        world
    }

    /// Sets a variable of the agent's environment; None unsets it.
    pub fn env(&mut self, name: &str, value: Option<&str>) {
        self.agent.env.retain(|(n, _)| n != name);
        self.agent.env.extend(value.map(|value| (name.to_owned(), value.to_owned())));
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

    #[track_caller]
    pub fn healthy(&mut self) {
        self.agent.wait_state("app", "healthy");
    }

    /// What the child has taken up, line by line.
    pub fn serving(&self) -> Vec<String> {
        self.agent.read("serving").lines().map(str::to_owned).collect()
    }

    /// Waits until the child serves exactly these lines, and is healthy.
    #[track_caller]
    pub fn serves(&mut self, lines: &[&str]) {
        self.serves_within(DEADLINE, lines);
    }

    /// The same where the next read may be a minute away: after failures for long, that is how far apart they are.
    #[track_caller]
    pub fn serves_after_failures(&mut self, lines: &[&str]) {
        self.serves_within(LONGEST_WAIT + DEADLINE, lines);
    }

    #[track_caller]
    fn serves_within(&mut self, within: Duration, lines: &[&str]) {
        let serving = self.path("serving");
        self.agent.wait_within(within, &format!("{lines:?} are served, and healthy"), |a| {
            let text = fs::read_to_string(&serving).ok()?;
            let well = a.target("app").is_some_and(|t| t["state"] == "healthy");
            (text.lines().eq(lines.iter().copied()) && well).then_some(())
        });
    }

    /// Every first line that was ever served, in order.
    pub fn served(&self) -> Vec<String> {
        let history = self.agent.read("history");
        history.split("--\n").filter_map(|part| part.lines().next().map(str::to_owned)).collect()
    }

    /// How often a child was started.
    pub fn starts(&self) -> usize {
        self.agent.read("starts").lines().count()
    }

    /// What `status` says of a secret.
    pub fn secret(&self, name: &str) -> Option<Value> {
        of_secret(&self.agent, name)
    }

    /// Waits until the secret was read that often again; in vain reads do not count.
    #[track_caller]
    pub fn read_again(&mut self, name: &str, times: usize) {
        for _ in 0..times {
            let before = self.secret(name).map(|secret| secret["read_at"].clone());
            self.agent.wait(&format!("{name} is read again"), |a| {
                let now = of_secret(a, name)?["read_at"].clone();
                (Some(&now) != before.as_ref() && now.is_string()).then_some(())
            });
        }
    }

    /// Waits until reading the secret fails with words like these, and answers them.
    #[track_caller]
    pub fn failing(&mut self, name: &str, words: &[&str]) -> String {
        self.agent.wait(&format!("reading {name} fails, with {words:?}"), |a| {
            let error = of_secret(a, name)?["error"].as_str()?.to_owned();
            let plain = error.to_lowercase();
            words.iter().all(|word| plain.contains(&word.to_lowercase())).then_some(error)
        })
    }

    /// Waits until the secret is read, and says nothing of a failure.
    #[track_caller]
    pub fn well(&mut self, name: &str) {
        self.agent.wait(&format!("{name} is read"), |a| {
            of_secret(a, name).filter(|s| s["error"].is_null() && s["read_at"].is_string())
        });
    }

    /// Reads a secret anew, by its name.
    #[track_caller]
    pub fn refresh(&self, name: &str) {
        let (code, out, err) = self.agent.call(&["refresh", name]);
        assert_eq!(code, 0, "{out}{err}");
    }
}

fn of_secret(agent: &Agent, name: &str) -> Option<Value> {
    let status = agent.status()?;
    status["secrets"].as_array()?.iter().find(|secret| secret["name"] == name).cloned()
}
