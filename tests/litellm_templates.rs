//! templates/litellm, rendered with values that try to break out, during a key's overlap and outside it; judged by the real
//! LiteLLM where LEASEHOLD_PYTHON has one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "support/agent.rs"]
mod agent;

use std::path::Path;
use std::process::Command;

use agent::Agent;
use serde_json::{Value, json};

const PROVIDERS: [(&str, &str); 5] =
    [("anthropic", "claude"), ("openai", "gpt"), ("xai", "grok"), ("bedrock", "claude-bedrock"), ("vertex", "gemini")];

/// Values of a round, with what YAML and JSON are careful about.
fn secrets(round: u32) -> Value {
    let key = |name: &str| format!("sk-{name}-{round}: \"#'{{{{ x }}}}\\");
    json!({
        "anthropic": {"api_key": key("anthropic")}, "openai": {"api_key": key("openai")}, "xai": {"api_key": key("xai")},
        "bedrock": {"access_key": format!("AKIA{round}"), "secret_key": key("bedrock")},
        "vertex": {"type": "service_account", "project_id": "project", "private_key": format!("-----BEGIN {round}\nabc\n")},
        "redis": {"password": key("redis")},
    })
}

fn site() -> Agent {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/litellm/config.yaml.tera");
    let declared = |name: &str| format!("  {name}: {{store: local, overlap: 1h}}\n");
    let all: String = PROVIDERS.iter().map(|(name, _)| declared(name)).chain([declared("redis")]).collect();
    let config = format!(
        "state_dir: state\nstate_key: {{file: state.key}}\nstores: {{local: {{type: file, path: secrets.yaml}}}}\n\
         secrets:\n{all}targets:\n  litellm:\n    files: [{{path: out/config.yaml, template: '{}'}}]\n    \
         reload: {{type: none}}\n",
        template.display()
    );
    let agent = Agent::new(&config, &secrets(1).to_string());
    agent.state_key();
    agent
}

/// The deployments in the rendered config.
fn rendered(agent: &Agent) -> Value {
    let (code, out, err) = agent.call(&["render", "--once"]);
    assert_eq!(code, 0, "{out}{err}");
    serde_yaml::from_str::<Value>(&agent.read("out/config.yaml")).unwrap()
}

/// What LiteLLM itself says of the file.
fn accepted(agent: &Agent, models: usize) {
    let Some(python) = std::env::var_os("LEASEHOLD_PYTHON").filter(|path| !path.is_empty()) else {
        eprintln!("SKIP: templates/litellm by LiteLLM itself: LEASEHOLD_PYTHON names no Python (run ./scripts/test)");
        assert!(std::env::var("LEASEHOLD_REQUIRE").as_deref() != Ok("all"), "required, but skipped");
        return;
    };
    let litellm = Path::new(&python).parent().unwrap().join("litellm");
    let judged = Command::new(litellm)
        .args(["--config", "out/config.yaml", "--validate_config"])
        .current_dir(&agent.dir)
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&judged.stdout).into_owned() + &String::from_utf8_lossy(&judged.stderr);
    assert!(judged.status.success() && told.contains(&format!("config OK ({models} models)")), "{told}");
}

#[test]
fn a_model_has_a_second_deployment_with_the_key_before_while_that_lasts() {
    let agent = site();
    let before = rendered(&agent);
    let models = before["model_list"].as_array().unwrap();
    assert_eq!(models.len(), PROVIDERS.len());
    accepted(&agent, 5);
    agent.secrets(&secrets(2).to_string());
    let after = rendered(&agent);
    let models = after["model_list"].as_array().unwrap();
    assert_eq!(models.len(), 2 * PROVIDERS.len());
    for (name, model) in PROVIDERS {
        let of_model: Vec<_> = models.iter().filter(|deployment| deployment["model_name"] == model).collect();
        let orders: Vec<_> = of_model.iter().map(|deployment| deployment["litellm_params"]["order"].clone()).collect();
        assert_eq!(orders, [1, 2], "{model}");
        for (deployment, round) in of_model.iter().zip([2, 1]) {
            let (params, values) = (&deployment["litellm_params"], &secrets(round)[name]);
            match name {
                "bedrock" => {
                    assert_eq!(params["aws_access_key_id"], values["access_key"]);
                    assert_eq!(params["aws_secret_access_key"], values["secret_key"]);
                }
                "vertex" => {
                    let account: Value = serde_json::from_str(params["vertex_credentials"].as_str().unwrap()).unwrap();
                    assert_eq!(account, *values);
                }
                _ => assert_eq!(params["api_key"], values["api_key"]),
            }
            let shown = &deployment["model_info"]["snapshot"];
            assert_eq!(*shown, models[0]["model_info"]["snapshot"], "one snapshot");
            assert_ne!(*shown, before["model_list"][0]["model_info"]["snapshot"], "another one than before");
        }
    }
    assert_eq!(after["router_settings"]["redis_password"], secrets(2)["redis"]["password"]);
    accepted(&agent, 10);
}

/// The environment that templates/litellm/env.tera gives with these secrets, as systemd reads it (systemd.exec(5)).
fn environment(agent: &Agent, secrets: &Value) -> Vec<(String, String)> {
    agent.secrets(&secrets.to_string());
    let (code, out, err) = agent.call(&["render", "--once"]);
    assert_eq!(code, 0, "{out}{err}");
    let mut variables = Vec::new();
    for line in agent.read("out/env").lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, value) = line.split_once('=').unwrap();
        let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap();
        let (mut read, mut chars) = (String::new(), quoted.chars());
        while let Some(c) = chars.next() {
            read.push(if c == '\\' { chars.next().unwrap() } else { c });
        }
        variables.push((name.to_owned(), read));
    }
    variables
}

#[test]
fn the_environment_has_the_database_and_the_keys_and_migrates_only_in_an_overlap_without_a_salt() {
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates/litellm/env.tera");
    let config = format!(
        "state_dir: state\nstate_key: {{file: state.key}}\nstores: {{local: {{type: file, path: secrets.yaml}}}}\n\
         secrets:\n  database: {{store: local}}\n  master: {{store: local, overlap: 1h}}\ntargets:\n  litellm:\n    \
         files: [{{path: out/env, format: systemd-env, template: '{}'}}]\n    reload: {{type: none}}\n",
        template.display()
    );
    let database = json!({"username": "v-app-1", "password": "p@ss/\"$w\\"});
    let agent = Agent::new(&config, "{}");
    agent.state_key();
    let url = "postgresql://v-app-1:p%40ss%2F%22%24w%5C@postgres:5432/litellm";
    let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let first = environment(&agent, &json!({"database": database, "master": {"key": "sk-\"1\""}}));
    assert_eq!(first, [variable("DATABASE_URL", url), variable("LITELLM_MASTER_KEY", "sk-\"1\"")]);
    let second = environment(&agent, &json!({"database": database, "master": {"key": "sk-$2"}}));
    assert_eq!(
        second[1..],
        [variable("LITELLM_MASTER_KEY", "sk-$2"), variable("LITELLM_MIGRATE_FROM_MASTER_KEY", "sk-\"1\""),]
    );
    let salted = environment(&agent, &json!({"database": database, "master": {"key": "sk-$2", "salt": "s`\\"}}));
    assert_eq!(salted[1..], [variable("LITELLM_MASTER_KEY", "sk-$2"), variable("LITELLM_SALT_KEY", "s`\\")]);
}
