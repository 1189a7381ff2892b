//! What a sound config means, and what the golden files cannot show.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use leasehold::config::model::*;
use leasehold::config::{Inputs, Place, Use, cross_check, parse, reference};
use leasehold::secret::SecretName;
use nix::sys::signal::Signal;

use super::{Accounts, CANARY, env, golden, load, load_text};

const SECONDS: fn(u64) -> Duration = Duration::from_secs;

fn good(name: &str) -> leasehold::config::Loaded {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/good/config").join(name);
    load(&path).unwrap_or_else(|faults| panic!("{faults}"))
}

fn secret<'a>(config: &'a Config, name: &str) -> &'a SecretConfig {
    &config.secrets[&SecretName::new(name)]
}

#[test]
fn the_contracts_example_means_what_it_says() {
    let config = good("contract.yaml").config;
    assert_eq!(config.state_dir, Path::new("/var/lib/leasehold/litellm"));
    assert_eq!(config.admin.unwrap().to_string(), "127.0.0.1:9187");
    let StoreConfig::Vault(vault) = &config.stores["vault"] else { panic!() };
    assert_eq!(vault.address, "http://127.0.0.1:8200");
    assert_eq!(vault.namespace.as_deref(), Some("platform/ai"));
    assert!(
        matches!(&vault.auth, VaultAuth::AppRole { mount, secret_id_file: Some(_), wrapped: false, .. } if mount == "approle")
    );
    let StoreConfig::File(file) = &config.stores["local"] else { panic!() };
    assert_eq!(file.path, Path::new("/etc/leasehold/secrets.yaml"), "relative to the config's folder");

    let anthropic = secret(&config, "anthropic");
    assert_eq!((anthropic.poll, anthropic.overlap), (Some(SECONDS(30)), SECONDS(86_400)));
    assert_eq!(anthropic.max_age, Some(SECONDS(90 * 86_400)));
    assert!(!anthropic.expect["api_key"].is_match("sk-other"));
    assert_eq!(anthropic.verify.as_ref().unwrap().headers[0].0, "x-api-key");
    assert_eq!(secret(&config, "database").poll, Some(SECONDS(60)), "Vault's default");
    assert_eq!(secret(&config, "bedrock").poll, Some(SECONDS(300)), "AWS's default");
    assert_eq!(secret(&config, "redis").poll, None, "a file is watched");

    let target = &config.targets["litellm"];
    assert_eq!(target.files[0].path, Path::new("/run/litellm/config.yaml"));
    assert_eq!((target.files[0].mode, target.files[0].uid, target.files[0].format), (0o640, Some(990), Format::Yaml));
    assert_eq!((target.files[1].mode, target.files[1].uid, target.files[1].format), (0o600, None, Format::SystemdEnv));
    assert_eq!(target.files[0].check.as_ref().unwrap().stdout.as_deref(), Some("config OK"));
    let ReloadConfig::Systemd(reload) = &target.reload else { panic!() };
    assert_eq!((reload.unit.as_str(), reload.verb), ("litellm.service", SystemdVerb::ReloadOrRestart));
    assert_eq!((target.health.within, target.health.successes), (SECONDS(90), 3));
    assert_eq!(
        (target.settle.min, target.settle.max, target.splay, target.keep),
        (SECONDS(2), SECONDS(10), SECONDS(30), 3)
    );
}

#[test]
fn what_is_not_said_has_its_default() {
    let config = good("minimal.yaml").config;
    assert!(config.admin.is_none() && config.audit.is_none() && config.secrets.is_empty());
    let target = &config.targets["app"];
    assert_eq!(target.settle, Settle { min: Duration::from_millis(500), max: SECONDS(5) });
    assert_eq!((target.splay, target.keep, target.on_unhealthy), (Duration::ZERO, 3, OnUnhealthy::Rollback));
    assert!(!target.require_running && target.pass_env.is_empty());
    assert!(matches!(target.reload, ReloadConfig::None));
    assert!(matches!(target.health.check, HealthCheck::None));
    let file = &target.files[0];
    assert_eq!((file.mode, file.format, file.structure), (0o600, Format::Dotenv, Structure::Fixed));
    assert!(file.uid.is_none() && file.gid.is_none() && file.check.is_none() && !file.follow_symlinks);
}

#[test]
fn every_key_reaches_the_model() {
    let config = good("every-key.yaml").config;
    let StoreConfig::Vault(vault) = &config.stores["vault"] else { panic!() };
    assert_eq!(
        (vault.address.as_str(), vault.namespace.as_deref()),
        ("https://vault.example:8200", Some("platform/ai"))
    );
    assert_eq!(vault.tls.client_key.as_deref(), Some(Path::new("/etc/leasehold/client.key")));
    assert!(matches!(&vault.auth, VaultAuth::AppRole { mount, wrapped: true, .. } if mount == "approle-ci"));
    let StoreConfig::Aws(aws) = &config.stores["aws"] else { panic!() };
    assert_eq!((aws.region.as_deref(), aws.regions.len(), aws.queue_url.is_some()), (Some("us-west-2"), 2, true));

    assert_eq!(secret(&config, "redis").locator, Locator::File { key: "cache".to_owned() });
    assert_eq!(secret(&config, "redis").poll, Some(SECONDS(10)));
    let Locator::Vault { path, params } = &secret(&config, "database").locator else { panic!() };
    assert_eq!(
        (path.as_str(), params["bits"].as_u64(), params["ratio"].as_f64()),
        ("pki/issue/app", Some(2048), Some(1.5))
    );
    assert!(params["none"].is_null() && params["exclude"].as_bool() == Some(true) && params["alt_names"].is_array());
    let verify = secret(&config, "database").verify.as_ref().unwrap();
    assert_eq!(
        (verify.method.as_str(), verify.status.as_slice(), verify.timeout),
        ("POST", &[200, 204][..], SECONDS(3))
    );
    assert_eq!(verify.headers[1], ("x-retries".to_owned(), "3".to_owned()));
    assert_eq!(verify.json[1].0, "/a~1b/0");

    let target = &config.targets["signalled"];
    assert_eq!(target.directory.as_deref(), Some(Path::new("/run/app")));
    assert_eq!(target.files[1].path, Path::new("/run/app/motd"));
    assert!(
        matches!(&target.files[2].source, Source::Resolve(path) if path == Path::new("/etc/leasehold/existing.json"))
    );
    assert_eq!(target.files[0].check.as_ref().unwrap().run[3], "5");
    let ReloadConfig::Signal(signal) = &target.reload else { panic!() };
    assert_eq!((signal.signal, signal.expect.uid), (Signal::SIGUSR1, Some(990)));
    let HealthCheck::Http(http) = &target.health.check else { panic!() };
    assert_eq!((http.status.as_slice(), http.timeout, http.body.as_deref()), (&[204][..], SECONDS(2), Some("")));

    let unit = &config.targets["unit"];
    let Source::Env(variables) = &unit.files[0].source else { panic!() };
    assert_eq!(variables[1], ("B".to_owned(), "true".to_owned()), "in order, as written");
    assert!(matches!(&unit.health.check, HealthCheck::Systemd(unit) if unit == "app@1.service"), "the reload's unit");
    assert!(matches!(&config.targets["unit-two"].health.check, HealthCheck::Systemd(unit) if unit == "app.socket"));

    let ReloadConfig::Exec(exec) = &config.targets["supervised"].reload else { panic!() };
    assert_eq!(exec.command, ["app", "--port", "4000"]);
    assert_eq!((exec.on_change, exec.stop_timeout, exec.drain), (OnChange::Handover, Duration::ZERO, SECONDS(60)));
    assert_eq!(exec.user.as_ref().map(|user| (user.name.as_str(), user.uid)), Some(("litellm", 990)));
    assert_eq!(exec.cwd.as_deref(), Some(Path::new("/etc/leasehold/work")));
    assert!(matches!(&config.targets["connected"].health.check, HealthCheck::Tcp(address) if address == "[::1]:5432"));
}

#[test]
fn every_way_to_log_in_to_vault_is_kept_apart() {
    let config = good("vault-auth.yaml").config;
    let auth = |store: &str| match &config.stores[store] {
        StoreConfig::Vault(vault) => vault.auth.clone(),
        _ => panic!(),
    };
    assert!(matches!(auth("a"), VaultAuth::Token { token: Some(token) } if token.expose() == CANARY.as_bytes()));
    assert!(matches!(auth("b"), VaultAuth::TokenFile { path } if path == Path::new("/run/token")));
    assert!(matches!(auth("d"), VaultAuth::Jwt { mount, token_file, .. }
        if mount == "kubernetes" && token_file.ends_with("serviceaccount/token")));
    assert!(matches!(auth("e"), VaultAuth::Jwt { mount, .. } if mount == "k8s"));
    assert!(matches!(auth("f"), VaultAuth::Jwt { mount, role, .. } if mount == "ci" && role == "app"));
    assert!(matches!(auth("g"), VaultAuth::Cert { mount, name: Some(_) } if mount == "certs"));
    assert!(matches!(auth("h"), VaultAuth::Userpass { username, .. } if username == "app"));
    assert!(matches!(auth("i"), VaultAuth::AwsIam { header_value: Some(_), region: Some(AwsRegion::Named(_)), .. }));
    assert!(matches!(auth("k"), VaultAuth::Token { token: None }));
}

#[test]
fn variables_are_expanded_once_and_can_be_escaped() {
    let loaded = good("expansion.yaml");
    let config = &loaded.config;
    assert_eq!(config.state_dir, Path::new("/home/agent/state"));
    assert_eq!(config.admin.unwrap().to_string(), "127.0.0.1:9187");
    let target = &config.targets["app"];
    assert_eq!((target.keep, target.splay), (5, SECONDS(10)));
    let Source::Inline(text) = &target.files[0].source else { panic!() };
    assert_eq!(text, "#!/bin/sh\necho \"${HOME} $HOME $$ 9187\"\n");
    assert_eq!(target.files[0].format, Format::Shell);
    assert_eq!(secret(config, "app").store.as_ref(), "local", "the only store");
}

#[test]
fn anchors_and_merge_keys_are_understood() {
    let config = good("anchors.yaml").config;
    assert!(matches!(&config.stores["other"], StoreConfig::File(file) if file.path.ends_with("other.yaml")));
    assert_eq!(config.targets["two"].splay, SECONDS(5));
    let Source::Env(variables) = &config.targets["two"].files[0].source else { panic!() };
    assert_eq!(variables.len(), 2);
}

#[test]
fn vaults_own_environment_stands_in_for_what_is_not_set() {
    let text = "state_dir: s\nstores: {v: {type: vault}}\ntargets: {a: {files: [{path: a.env, env: {A: 1}}]}}\n";
    let env = |name: &str| match name {
        "VAULT_ADDR" => Some("https://v:8200".to_owned()),
        "VAULT_NAMESPACE" => Some("team/".to_owned()),
        "VAULT_CACERT" => Some("/ca.pem".to_owned()),
        "BAO_CAPATH" => Some("/cas".to_owned()),
        "VAULT_TOKEN" => Some("hvs.token\n".to_owned()),
        "VAULT_CLIENT_TIMEOUT" => Some("90".to_owned()),
        "VAULT_SKIP_VERIFY" => Some("true".to_owned()),
        _ => None,
    };
    let inputs = Inputs { file: Path::new("/c/agent.yaml"), env: &env, users: &Accounts, command: None };
    let loaded = parse(text.as_bytes(), Path::new("agent.yaml"), &inputs).unwrap_or_else(|faults| panic!("{faults}"));
    let StoreConfig::Vault(vault) = &loaded.config.stores["v"] else { panic!() };
    assert_eq!((vault.address.as_str(), vault.namespace.as_deref()), ("https://v:8200", Some("team")));
    assert_eq!(vault.tls.ca_cert.as_deref(), Some(Path::new("/ca.pem")));
    assert_eq!(vault.tls.ca_path.as_deref(), Some(Path::new("/cas")), "OpenBao's own");
    assert_eq!(vault.timeout, SECONDS(90));
    assert!(matches!(&vault.auth, VaultAuth::Token { token: Some(token) } if token.expose() == b"hvs.token"));
    assert!(vault.tls.skip_verify);
    assert!(loaded.warnings[0].to_string().contains("NOT verified"));
}

#[test]
fn vaults_switches_are_read_as_its_cli_reads_them() {
    let text = "state_dir: s\nstores: {v: {type: vault, address: 'https://v'}}\ntargets: {a: {files: [{path: a.env, env: {A: 1}}]}}\n";
    let with = |variable: &'static str, value: &'static str| {
        let env = move |name: &str| (name == variable).then(|| value.to_owned());
        let inputs = Inputs { file: Path::new("/c/agent.yaml"), env: &env, users: &Accounts, command: None };
        parse(text.as_bytes(), Path::new("agent.yaml"), &inputs)
    };
    let skips = |value| {
        let loaded = with("VAULT_SKIP_VERIFY", value).unwrap_or_else(|faults| panic!("{faults}"));
        let StoreConfig::Vault(vault) = &loaded.config.stores["v"] else { panic!() };
        assert_eq!(vault.tls.skip_verify, !loaded.warnings.is_empty(), "never without a word");
        vault.tls.skip_verify
    };
    assert!(!skips("") && !skips("0") && !skips("false") && skips("1") && skips("T"));
    assert!(with("VAULT_SKIP_VERIFY", "yes").is_err());
    assert!(with("VAULT_CLIENT_TIMEOUT", "soon").is_err() && with("VAULT_CLIENT_TIMEOUT", "2m").is_ok());
    assert!(with("VAULT_TOKEN", "two words").is_err());
}

#[test]
fn places_lead_back_to_the_file() {
    let text = "state_dir: s\nstores: {local: {type: file, path: x}}\nsecrets:\n  a: {}\ntargets:\n  app:\n    files:\n\
                \x20     - path: a.txt\n        inline: |\n          one\n          {{ two }}\n\
                \x20     - path: b.txt\n        inline: |2\n\n            indented\n      - {path: c.txt, inline: 'x'}\n";
    let loaded = load_text(text).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(loaded.place("secrets.a"), Place { line: 4, column: 3 });
    assert_eq!(loaded.place("targets.app.files[0].inline"), Place { line: 9, column: 9 });
    assert_eq!(loaded.text_place("targets.app.files[0].inline", 2, 4), Place { line: 11, column: 14 });
    assert_eq!(loaded.text_place("targets.app.files[1].inline", 2, 3), Place { line: 15, column: 13 });
    assert_eq!(loaded.text_place("targets.app.files[2].inline", 1, 1), Place { line: 16, column: 31 });
    assert_eq!(loaded.place("targets.nobody"), Place::default());
    assert_eq!(loaded.fault("secrets.a", "m", None).to_string(), "agent.yaml:4:3: m");
}

#[test]
fn a_used_secret_must_be_declared_and_a_declared_one_should_be_used() {
    let loaded = good("contract.yaml");
    let file: Arc<Path> = Arc::from(Path::new("templates/a.tera"));
    let one =
        |name: &str, line| Use { secret: SecretName::new(name), file: file.clone(), place: Place { line, column: 4 } };
    let uses = vec![one("anthropic", 1), one("databse", 2), one("databse", 2), one("bedrock", 3), one("redis", 5)];
    let (faults, warnings) = cross_check(&loaded, &[("litellm".into(), uses)]);
    assert_eq!(faults.len(), 1);
    assert_eq!(
        faults[0].to_string(),
        "templates/a.tera:2:4: targets.litellm uses the secret 'databse', which is not declared; did you mean 'database'?"
    );
    assert_eq!(warnings.len(), 1);
    assert!(warnings[0].to_string().ends_with("secrets.database is declared, but no target uses it"));
    assert!(warnings[0].line > 0);
}

#[test]
fn a_reference_names_store_path_and_field() {
    let config = good("contract.yaml").config;
    let found = |text: &str| {
        reference(&config, text).map(|found| found.map(|r| (r.name.to_string(), r.secret.locator, r.field)))
    };
    let vault = |path: &str| Locator::Vault { path: path.to_owned(), params: Default::default() };
    assert_eq!(
        found("vault://secret/litellm/anthropic#api_key"),
        Ok(Some((
            "vault://secret/litellm/anthropic".to_owned(),
            vault("secret/litellm/anthropic"),
            "api_key".to_owned()
        )))
    );
    assert_eq!(found("vault:///secret/a/#f").unwrap().unwrap().0, "vault://secret/a", "one name for one secret");
    assert_eq!(found("local://redis#password").unwrap().unwrap().1, Locator::File { key: "redis".to_owned() });
    assert!(matches!(found("aws://litellm/key#a").unwrap().unwrap().1, Locator::Aws { id, .. } if id == "litellm/key"));
    for other in ["https://example.com/#x", "postgresql://u:p@h/db", "plain text", "vault:secret#x", ""] {
        assert_eq!(found(other), Ok(None), "{other}");
    }
    for bad in [
        "vault://secret/x",
        "vault://secret/x#",
        "vault://secret#x",
        "vault://a/../b#x",
        "vault://secret/x y#z",
        "aws://#x",
    ] {
        let error = found(bad).err().unwrap().to_string();
        assert!(!error.contains("secret/x"), "{error}");
    }
}

#[test]
fn a_command_of_the_command_line_becomes_the_only_targets_process() {
    let command = vec!["app".to_owned(), "--flag".to_owned()];
    let with = |reload: &str, more: &str| {
        let text = format!(
            "state_dir: s\nstores: {{l: {{type: file, path: x}}}}\ntargets:\n  app:\n    files: [{{path: a.env, env: {{A: 1}}}}]\n{reload}{more}"
        );
        let file = Path::new("/c/agent.yaml");
        let inputs = Inputs { file, env: &env, users: &Accounts, command: Some(&command) };
        parse(text.as_bytes(), Path::new("agent.yaml"), &inputs)
    };
    for reload in ["", "    reload: {type: exec, env: {B: 2}}\n", "    reload: {type: exec, command: [other]}\n"] {
        let config = with(reload, "").unwrap_or_else(|faults| panic!("{faults}")).config;
        assert!(matches!(&config.targets["app"].reload, ReloadConfig::Exec(exec) if exec.command == command));
    }
    assert!(
        with("    reload: {type: systemd, unit: a}\n", "").err().unwrap().to_string().contains("supervises CMD itself")
    );
    let two = "  more: {files: [{path: b.env, env: {A: 1}}]}\n";
    assert!(with("", two).err().unwrap().to_string().contains("exactly one target"));
}

#[test]
fn a_file_is_loaded_from_disk_with_the_machines_own_users() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.yaml");
    let text = "state_dir: s\nstores: {l: {type: file, path: x}}\n\
                targets: {a: {files: [{path: a.env, env: {A: 1}, owner: root, group: OWN}]}}\n";
    std::fs::write(&path, text.replace("OWN", "0")).unwrap();
    let loaded = leasehold::config::load(&path, &env).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(loaded.config.file, path);
    assert_eq!(loaded.config.state_dir, folder.path().join("s"));
    assert_eq!(loaded.config.targets["a"].files[0].uid, Some(0));
    std::fs::write(&path, text.replace("OWN", "no-such-group-anywhere")).unwrap();
    assert!(
        leasehold::config::load(&path, &env)
            .err()
            .unwrap()
            .to_string()
            .contains("has no group 'no-such-group-anywhere'")
    );
}

#[test]
fn a_file_that_cannot_be_read_is_one_fault_without_a_place() {
    let folder = tempfile::tempdir().unwrap();
    let told = |path: &Path| leasehold::config::load(path, &env).err().unwrap().to_string();
    let missing = folder.path().join("absent.yaml");
    assert_eq!(told(&missing), format!("{}: there is no such file", missing.display()));
    assert_eq!(told(folder.path()), format!("{}: is a folder, not a file", folder.path().display()));
    let large = folder.path().join("large.yaml");
    std::fs::File::create(&large).unwrap().set_len(17 << 20).unwrap();
    assert_eq!(told(&large), format!("{}: is larger than 16 MiB", large.display()));
}

/// Every good config cut short at any byte, and with any byte replaced: no panic, and no refusal without a word.
#[test]
fn a_mutilated_config_is_refused_in_words() {
    let parse = |bytes: &[u8]| {
        let file = Path::new("/etc/leasehold/agent.yaml");
        let inputs = Inputs { file, env: &env, users: &Accounts, command: None };
        if let Err(faults) = parse(bytes, Path::new("agent.yaml"), &inputs) {
            let told = faults.to_string();
            assert!(!told.is_empty(), "{}", String::from_utf8_lossy(bytes));
            assert!(!told.contains(CANARY), "{told}");
        }
    };
    let replacements = b":{}[]'\"#&*!|>-\n\t $%\\0\xff";
    for (index, path) in golden("good").iter().enumerate() {
        let bytes = std::fs::read(path).unwrap();
        let step = (bytes.len() / 150).max(1);
        for at in (index % step..bytes.len()).step_by(step) {
            parse(&bytes[..at]);
            let mut other = bytes.clone();
            other[at] = replacements[(at / step + index) % replacements.len()];
            parse(&other);
        }
    }
}

#[test]
fn ten_thousand_secrets_load_within_a_second_or_so() {
    let mut text = "state_dir: s\nstores: {l: {type: file, path: x}}\nsecrets:\n".to_owned();
    for n in 0..10_000 {
        text += &format!("  s{n}: {{key: k{n}, max_age: 30d}}\n");
    }
    text += "targets:\n  a:\n    files:\n";
    for n in 0..10_000 {
        text += &format!("      - {{path: /run/a/{n}.env, env: {{A: '{{{{ secrets.s{n}.x }}}}'}}}}\n");
    }
    let loaded = load_text(&text).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(loaded.config.secrets.len(), 10_000);
    let files: Vec<&PathBuf> = loaded.config.targets["a"].files.iter().map(|file| &file.path).collect();
    assert_eq!(files.len(), 10_000);
}
