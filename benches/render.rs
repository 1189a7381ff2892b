//! Rendering and quoting at 1, 100 and 10,000 secrets, and one changed secret of 10,000: `cargo bench --bench render`.
#![allow(clippy::panic)] // a bench is no production code

use std::hint::black_box;
use std::sync::Arc;

use divan::Bencher;
use leasehold::config::model::{FileConfig, Format, Source};
use leasehold::render::{Renderer, Sources, env_quote, shell_quote};
use leasehold::secret::{Field, SecretName, Snapshot};

#[path = "../tests/render_kit/mod.rs"]
mod render_kit;
use render_kit::{file, reading, renderer};

fn main() {
    divan::main();
}

const SIZES: [usize; 3] = [1, 100, 10_000];

fn name(i: usize) -> String {
    format!("secret_{i:05}")
}

fn password(i: usize, version: usize) -> String {
    format!("p\"a$s'{i}\\wörd #{version} 0123456789abcdef")
}

fn snapshot(count: usize) -> Snapshot {
    let one = |i| (SecretName::new(name(i)), of(i, 1));
    Snapshot { secrets: (0..count).map(one).collect(), previous: Default::default() }
}

fn of(i: usize, version: usize) -> Arc<leasehold::secret::Reading> {
    let fields = [("username", format!("user-{i}")), ("password", password(i, version))];
    let fields = fields.into_iter().map(|(n, v)| (n.to_string(), Field::text(v))).collect();
    reading(&version.to_string(), fields)
}

/// `count` secrets over files of up to 10 secrets each.
fn split(count: usize) -> Vec<FileConfig> {
    (0..count)
        .step_by(10)
        .map(|first| {
            let line = |i| {
                let name = name(i);
                format!("user{i}: {{{{ secrets.{name}.username | yaml }}}}\npass{i}: {{{{ secrets.{name}.password | yaml }}}}\n")
            };
            let text: String = (first..(first + 10).min(count)).map(line).collect();
            file(&format!("/run/app/{first}.yaml"), Source::Inline(text), Format::Yaml)
        })
        .collect()
}

/// All secrets in one typed environment file.
fn single(count: usize) -> Vec<FileConfig> {
    let value = |i| (format!("X{i}"), format!("{{{{ secrets.{}.password }}}}", name(i)));
    vec![file("/run/app/env", Source::Env((0..count).map(value).collect()), Format::SystemdEnv)]
}

fn compiled(files: Vec<FileConfig>, count: usize) -> Renderer {
    let names: Vec<String> = (0..count).map(name).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    match renderer(files, &names, &Sources::default()) {
        Ok(renderer) => renderer,
        Err(errors) => panic!("{}", errors[0]),
    }
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn compile(bencher: Bencher, count: usize) {
    bencher.bench_local(|| black_box(compiled(split(count), count)));
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn render_all_in_files_of_ten(bencher: Bencher, count: usize) {
    let snapshot = snapshot(count);
    bencher
        .with_inputs(|| compiled(split(count), count))
        .bench_local_values(|renderer| renderer.render(&snapshot).is_ok());
}

#[divan::bench(args = SIZES, sample_count = 10)]
fn render_all_in_one_env_file(bencher: Bencher, count: usize) {
    let snapshot = snapshot(count);
    bencher
        .with_inputs(|| compiled(single(count), count))
        .bench_local_values(|renderer| renderer.render(&snapshot).is_ok());
}

/// What changes is one secret; what it costs is its file (and a walk over the versions).
#[divan::bench(args = SIZES)]
fn one_changed_secret(bencher: Bencher, count: usize) {
    let renderer = compiled(split(count), count);
    let mut snapshot = snapshot(count);
    let mut version = 1;
    bencher.bench_local(|| {
        version += 1;
        snapshot.secrets.insert(SecretName::new(name(count / 2)), of(count / 2, version));
        renderer.render(&snapshot).is_ok()
    });
}

#[divan::bench(args = SIZES)]
fn nothing_changed(bencher: Bencher, count: usize) {
    let renderer = compiled(split(count), count);
    let snapshot = snapshot(count);
    bencher.bench_local(|| renderer.render(&snapshot).is_ok());
}

#[divan::bench(args = SIZES)]
fn inputs_digest(bencher: Bencher, count: usize) {
    let renderer = compiled(split(count), count);
    let snapshot = snapshot(count);
    bencher.bench_local(|| renderer.inputs_digest(&snapshot));
}

#[divan::bench(args = SIZES)]
fn quote_for_systemd(bencher: Bencher, count: usize) {
    let values: Vec<String> = (0..count).map(|i| password(i, 1)).collect();
    bencher.bench_local(|| values.iter().filter(|v| env_quote(Format::SystemdEnv, v).is_ok()).count());
}

#[divan::bench(args = SIZES)]
fn quote_for_a_shell(bencher: Bencher, count: usize) {
    let values: Vec<String> = (0..count).map(|i| password(i, 1)).collect();
    bencher.bench_local(|| values.iter().filter(|v| shell_quote(v).is_ok()).count());
}
