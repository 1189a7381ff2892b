//! A target with one or more files, and snapshots, for the tests and benches of templates.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests
#![allow(dead_code)] // each test binary uses its own part

pub mod systemd;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use leasehold::config::model::{
    FileConfig, Format, HealthCheck, HealthConfig, Locator, OnUnhealthy, ReloadConfig, SecretConfig, Settle, Source,
    Structure, TargetConfig,
};
use leasehold::digest::Key;
use leasehold::render::{RenderError, Renderer, Sources};
use leasehold::secret::{Field, Fields, Reading, SecretName, Snapshot, Version};

pub fn file(path: &str, source: Source, format: Format) -> FileConfig {
    FileConfig {
        path: PathBuf::from(path),
        source,
        format,
        mode: 0o600,
        uid: None,
        gid: None,
        check: None,
        follow_symlinks: false,
        structure: Structure::Fixed,
    }
}

pub fn target(files: Vec<FileConfig>) -> TargetConfig {
    TargetConfig {
        name: "app".into(),
        files,
        directory: None,
        reload: ReloadConfig::None,
        health: HealthConfig {
            check: HealthCheck::None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            within: Duration::from_secs(1),
            successes: 1,
        },
        on_unhealthy: OnUnhealthy::Rollback,
        require_running: false,
        settle: Settle { min: Duration::ZERO, max: Duration::ZERO },
        splay: Duration::ZERO,
        keep: 3,
        pass_env: vec!["LISTED".to_string()],
    }
}

pub fn secrets<'n>(names: impl IntoIterator<Item = &'n str>) -> BTreeMap<SecretName, SecretConfig> {
    let one = |name: &str| SecretConfig {
        name: SecretName::new(name),
        store: "local".into(),
        locator: Locator::File { key: name.to_string() },
        poll: None,
        overlap: Duration::ZERO,
        max_age: None,
        expect: BTreeMap::new(),
        verify: None,
    };
    names.into_iter().map(|name| (SecretName::new(name), one(name))).collect()
}

pub fn reading(version: &str, fields: Fields) -> Arc<Reading> {
    Arc::new(Reading::new(fields, Version(version.to_string())))
}

/// One secret `s` with the fields `v0`, `v1`, ….
pub fn values(values: &[String]) -> Snapshot {
    let fields = values.iter().enumerate().map(|(i, v)| (format!("v{i}"), Field::text(v.as_str()))).collect();
    Snapshot { secrets: BTreeMap::from([(SecretName::new("s"), reading("1", fields))]), previous: BTreeMap::new() }
}

pub fn renderer(files: Vec<FileConfig>, names: &[&str], sources: &Sources) -> Result<Renderer, Vec<RenderError>> {
    let declared = secrets(names.iter().copied());
    Renderer::new(&Arc::new(target(files)), &declared, sources, &Key::new(b"key"), &BTreeMap::new())
}

/// The output of one file over a snapshot.
pub fn output(file: FileConfig, snapshot: &Snapshot) -> Result<Vec<u8>, RenderError> {
    let names: Vec<&str> = snapshot.secrets.keys().map(SecretName::as_str).collect();
    let renderer = renderer(vec![file], &names, &Sources::default()).map_err(|mut errors| errors.remove(0))?;
    Ok(renderer.render(snapshot)?.files[0].bytes.expose().to_vec())
}
