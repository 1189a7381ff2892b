//! Every config under `examples/` passes `agent check --offline`, and that command can tell a bad one.

#![allow(clippy::expect_used, reason = "helpers of tests fail by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut configs: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("examples/ can be read")
        .map(|entry| entry.expect("examples/ can be read").path().join("agent.yaml"))
        .filter(|path| path.exists())
        .collect();
    configs.sort();
    configs
}

fn check(config: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_agent"))
        .args(["check", "--offline", "--config"])
        .arg(config)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .output()
        .expect("the agent can be run")
}

#[test]
fn every_example_passes_check() {
    let configs = examples();
    assert!(configs.len() >= 6, "{configs:?}");
    for config in configs {
        let output = check(&config);
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {}\n{told}", config.display(), output.status);
    }
}

#[test]
fn an_example_with_a_mistyped_key_does_not() {
    for config in examples() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let copy = folder.path().join("agent.yaml");
        let text = std::fs::read_to_string(&config).expect("the example can be read");
        assert!(text.contains("\ntargets:\n"), "{}", config.display());
        std::fs::write(&copy, text.replace("\ntargets:\n", "\ntarget:\n")).expect("the copy can be written");
        let output = check(&copy);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{}: {told}", config.display());
        assert!(told.contains("targets"), "{}: the name that was meant is not in: {told}", config.display());
    }
}
