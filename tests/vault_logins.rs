//! Logins, end to end: the agent's own binary against the fake server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "support/agent.rs"]
mod agent;
#[path = "support/vault/mod.rs"]
mod vault;

use std::fs;
use std::os::unix::process::ExitStatusExt;

use agent::Agent;
use serde_json::{Value, json};
use vault::fake::Fake;
use vault::server::{FakeServer, VaultServer};

const KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
const TOKEN: &str = "session/token/of/the/test";

fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// A server with a secret and a policy for it, and an agent that is to log in like this.
fn world(auth: &str) -> (FakeServer, Agent) {
    let server = FakeServer::new(Fake::new());
    let admin: &dyn VaultServer = &server;
    let kv = wait(async {
        let kv = admin.kv(2).await;
        admin.put(&kv, "a", json!({"x": "the value"})).await;
        admin.policy("app", "path \"*\" { capabilities = [\"read\", \"update\", \"list\"] }").await;
        kv
    });
    let address = admin.address();
    let config = format!(
        "state_dir: state\nstate_key: {{file: state.key}}\n\
         stores:\n  v: {{type: vault, address: '{address}', auth: {auth}}}\n\
         secrets:\n  s: {{store: v, path: {kv}/a}}\n\
         targets:\n  app: {{files: [{{path: out/conf, inline: '{{{{ secrets.s.x }}}}'}}]}}\n"
    );
    let mut agent = Agent::new(&config, "{}");
    agent.state_key();
    let home = agent.dir.display().to_string();
    let set = [("HOME", home.as_str()), ("AWS_EC2_METADATA_DISABLED", "true")];
    agent.env.extend(set.map(|(name, value)| (name.to_owned(), value.to_owned())));
    (server, agent)
}

/// A role that only this access key may take.
fn iam(access_key: &str) -> (FakeServer, Agent) {
    let (server, agent) = world("{type: aws, role: app, header_value: vault.test}");
    let admin: &dyn VaultServer = &server;
    wait(async {
        admin.mount("auth/aws", "aws", Value::Null).await;
        admin.must("POST", "auth/aws/config/client", json!({"iam_server_id_header_value": "vault.test"})).await;
        let role = json!({"auth_type": "iam", "token_policies": ["app"], "fake_access_key": access_key});
        admin.must("POST", "auth/aws/role/app", role).await;
    });
    (server, agent)
}

const ONCE: [&str; 4] = ["--log-level", "trace", "render", "--once"];

#[track_caller]
fn renders(agent: &Agent) {
    let (code, out, err) = agent.call(&ONCE);
    assert_eq!(code, 0, "{out}{err}");
    assert_eq!(agent.read("out/conf"), "the value");
    for secret in [KEY, TOKEN] {
        assert!(!out.contains(secret) && !err.contains(secret), "a key is in the output:\n{out}{err}");
    }
}

#[test]
fn aws_credentials_come_from_the_environment() {
    let (_server, mut agent) = iam("AKIDENVIRONMENT");
    let set = [("AWS_ACCESS_KEY_ID", "AKIDENVIRONMENT"), ("AWS_SECRET_ACCESS_KEY", KEY), ("AWS_SESSION_TOKEN", TOKEN)];
    agent.env.extend(set.map(|(name, value)| (name.to_owned(), value.to_owned())));
    renders(&agent);
}

#[test]
fn aws_credentials_come_from_the_profile_that_the_environment_names() {
    let (_server, mut agent) = iam("AKIDPROFILE");
    fs::create_dir(agent.dir.join(".aws")).unwrap();
    let text = format!(
        "[default]\naws_access_key_id = AKIDDEFAULT\naws_secret_access_key = {KEY}\n\
         [app]\naws_access_key_id = AKIDPROFILE\naws_secret_access_key = {KEY}\naws_session_token = {TOKEN}\n"
    );
    fs::write(agent.dir.join(".aws/credentials"), text).unwrap();
    let (code, _, err) = agent.call(&ONCE);
    assert_ne!(code, 0, "the default profile is not the role's");
    assert!(err.contains("does not belong to the role"), "{err}");
    agent.env.push(("AWS_PROFILE".into(), "app".into()));
    renders(&agent);
}

#[test]
fn aws_credentials_come_from_a_process_and_its_end_is_its_own() {
    let (server, mut agent) = iam("AKIDPROCESS");
    fs::create_dir(agent.dir.join(".aws")).unwrap();
    fs::write(agent.dir.join(".aws/config"), "[default]\ncredential_process = cat \"$HOME/given\"\n").unwrap();
    let given = |ends: &str| {
        let text = json!({"Version": 1, "AccessKeyId": "AKIDPROCESS", "SecretAccessKey": KEY, "SessionToken": TOKEN,
            "Expiration": ends});
        fs::write(agent.dir.join("given"), text.to_string()).unwrap();
    };
    given("2020-01-01T00:00:00Z");
    let (code, _, err) = agent.call(&ONCE);
    assert_ne!(code, 0);
    assert!(err.contains("have expired") && !err.contains(KEY) && !err.contains(TOKEN), "{err}");
    given("2999-01-01T00:00:00Z");
    renders(&agent);
    // In a running agent, which reaps what nobody else waits for.
    fs::remove_dir_all(agent.dir.join("state")).unwrap();
    fs::remove_file(agent.dir.join("out/conf")).unwrap();
    agent.start();
    agent.wait_file("out/conf", "the value");
    assert!(agent.stop().success(), "{}", agent.log());
    drop(server);
}

#[test]
fn where_there_are_no_aws_credentials_the_error_names_what_was_tried() {
    let (_server, agent) = iam("AKID");
    let (code, _, err) = agent.call(&["render", "--once"]);
    assert_ne!(code, 0);
    for tried in ["no AWS credentials found", "AWS_ACCESS_KEY_ID", "~/.aws", "AWS_WEB_IDENTITY_TOKEN_FILE", "IMDSv2"] {
        assert!(err.contains(tried), "{tried}: {err}");
    }
}

#[test]
fn an_agent_that_is_killed_right_after_it_unwrapped_logs_in_with_what_it_kept() {
    if !cfg!(feature = "failpoints") {
        eprintln!("SKIP: kills at failpoints need `--features failpoints`");
        assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "LEASEHOLD_REQUIRE=all");
        return;
    }
    for command in [&["--log-level", "debug", "run"][..], &["render", "--once"]] {
        let (server, mut agent) =
            world("{type: approle, mount: MOUNT, role_id_file: role-id, secret_id_file: wrapped, wrapped: true}");
        let admin: &dyn VaultServer = &server;
        wait(async {
            let mount = admin.approle(json!({"token_policies": "app"})).await;
            fs::write(agent.dir.join("role-id"), admin.role_id(&mount).await).unwrap();
            fs::write(agent.dir.join("wrapped"), admin.wrapped_secret_id(&mount, "10m").await).unwrap();
            let config = agent.read("agent.yaml").replace("MOUNT", mount.trim_start_matches("auth/"));
            fs::write(agent.dir.join("agent.yaml"), config).unwrap();
        });
        // A check spends nothing.
        let (_, out, err) = agent.call(&["check"]);
        assert!(format!("{out}{err}").contains("left alone"), "{out}{err}");
        agent.env.push(("LEASEHOLD_FAILPOINT".into(), "session.unwrapped".into()));
        agent.start_with(command);
        let ended = agent.end();
        assert_eq!(ended.signal(), Some(9), "{command:?}: {}", agent.log());
        let asked = |path: &str| server.fake.counts().count(|asked| asked.path.ends_with(path));
        assert_eq!((asked("sys/wrapping/unwrap"), asked("/login")), (1, 0), "{command:?}: {}", agent.log());
        agent.env.pop();
        agent.start();
        agent.wait_file("out/conf", "the value");
        assert_eq!((asked("sys/wrapping/unwrap"), asked("/login")), (1, 1), "{command:?}");
        assert!(agent.stop().success(), "{}", agent.log());
    }
}
