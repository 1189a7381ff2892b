//! What our filters write, the real readers read: a shell, systemd's rules, docker's, python-dotenv, YAML, JSON, TOML.
//! And what a value may do without a filter: nothing to the keys.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests are tests

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use leasehold::config::model::{FileConfig, Format, Source, Structure};
use leasehold::render::envfile;
use proptest::collection::vec;
use proptest::prelude::*;

mod render_kit;
use render_kit::systemd::parse_env_file;
use render_kit::{file, output, values};

/// Texts made to hurt: quotes, breaks, blanks at the ends, expansions, comments, everything of Unicode but NUL.
fn text() -> impl Strategy<Value = String> {
    let nasty = prop::sample::select(vec![
        "\n",
        "\r",
        "\r\n",
        "\t",
        " ",
        "  ",
        "'",
        "\"",
        "`",
        "$",
        "${A}",
        "${",
        "$(",
        ")",
        "#",
        " #",
        "\\",
        "\\n",
        "\\\n",
        "\\'",
        "\\\"",
        "=",
        ": ",
        "- ",
        "{{",
        "}}",
        "{%",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&a",
        "*a",
        "!!",
        "%",
        "@",
        "|",
        ">",
        "?",
        "~",
        "null",
        "true",
        "0x1F",
        "1e3",
        "---",
        "...",
        "\u{FEFF}",
        "\u{85}",
        "\u{2028}",
        "\u{7f}",
        "\u{1}",
        "\u{1b}[0m",
        "ä",
        "日本",
        "😀",
        "e\u{301}",
        "\u{FFFD}",
        "\u{10FFFD}\u{200B}",
        "export ",
        "A=b",
        "''",
        "\"\"\"",
        "'''",
        ";",
        "&&",
        "!",
    ]);
    let any = any::<char>().prop_filter("no NUL", |c| *c != '\0').prop_map(String::from);
    let part = prop_oneof![4 => nasty.prop_map(String::from), 1 => any, 2 => "[a-zA-Z0-9+/=_.-]{1,12}"];
    prop_oneof![
        12 => vec(part, 0..8).prop_map(|parts| parts.concat()),
        1 => Just(String::new()),
        1 => "[ -~]{4000}",
    ]
    .prop_filter("private characters that stand for bytes", |t| !t.contains(|c| c >= '\u{10FF00}'))
}

fn noncharacter(c: char) -> bool {
    matches!(u32::from(c), 0xFDD0..=0xFDEF) || u32::from(c) & 0xFFFE == 0xFFFE
}

/// A file with one variable a value: `X0`, `X1`, …, by the typed source and by the filter.
fn env_file(format: Format, of: &[String], typed: bool) -> FileConfig {
    let source = if typed {
        Source::Env((0..of.len()).map(|i| (format!("X{i}"), format!("{{{{ secrets.s.v{i} }}}}"))).collect())
    } else {
        let line = |i| format!("X{i}={{{{ secrets.s.v{i} | env_quote }}}}\n");
        Source::Inline((0..of.len()).map(line).collect())
    };
    file("/out", source, format)
}

fn written(format: Format, of: &[String], typed: bool) -> String {
    String::from_utf8(output(env_file(format, of, typed), &values(of)).unwrap()).unwrap()
}

fn read(variables: Result<Vec<envfile::Variable>, usize>) -> Vec<(String, String)> {
    let variables = variables.unwrap_or_else(|line| panic!("line {line} is not read"));
    variables.into_iter().map(|v| (v.name, v.value.unwrap_or_default())).collect()
}

fn expected(of: &[String]) -> Vec<(String, String)> {
    of.iter().enumerate().map(|(i, v)| (format!("X{i}"), v.clone())).collect()
}

fn config() -> ProptestConfig {
    ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() }
}

fn skip(what: &str) {
    eprintln!("SKIP: {what}");
    assert_ne!(std::env::var("LEASEHOLD_REQUIRE").as_deref(), Ok("all"), "{what}");
}

fn run(program: &str, args: &[&str], input: &str) -> Vec<u8> {
    let mut command = Command::new(program);
    command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    for name in ["HOME", "PYENV_ROOT"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{program} failed");
    output.stdout
}

fn sourced(shell: &str, path: &Path, count: usize) -> Vec<String> {
    let print: String = (0..count).map(|i| format!(" \"$X{i}\"")).collect();
    let script = format!(". \"$1\"; printf '%s\\0'{print}");
    let out = run(shell, &["-c", &script, shell, path.to_str().unwrap()], "");
    let mut texts: Vec<String> = out.split(|b| *b == 0).map(|t| String::from_utf8(t.to_vec()).unwrap()).collect();
    texts.pop();
    texts
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_shell_reads_what_was_written(of in vec(text(), 1..12), typed: bool) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        std::fs::write(&path, written(Format::Shell, &of, typed)).unwrap();
        for shell in ["/bin/sh", "/bin/bash"] {
            if Path::new(shell).exists() {
                prop_assert_eq!(sourced(shell, &path, of.len()), of.clone());
            } else {
                skip(&format!("no {shell}"));
            }
        }
    }

    #[test]
    fn systemd_reads_what_was_written(of in vec(text(), 1..12), typed: bool) {
        let of: Vec<String> = of.into_iter().map(|t| t.replace(noncharacter, "")).collect();
        let text = written(Format::SystemdEnv, &of, typed);
        prop_assert_eq!(parse_env_file(text.as_bytes()), expected(&of));
        prop_assert_eq!(read(envfile::systemd(&text)), expected(&of));
    }

    #[test]
    fn our_reader_of_systemds_files_reads_as_systemd_does(a in text(), b in text(), c in text()) {
        let text = format!("A={a}\nB='{b}'{c}\nC=\"{c}\"{a}\n");
        // Ours refuses what systemd would skip; what it takes, it takes as systemd does.
        if let Ok(variables) = envfile::systemd(&text) {
            prop_assert_eq!(read(Ok(variables)), parse_env_file(text.as_bytes()));
        }
    }

    #[test]
    fn docker_reads_what_was_written(of in vec(text(), 1..12), typed: bool) {
        let of: Vec<String> = of.into_iter().map(|t| t.replace('\n', "").trim_end_matches('\r').to_string()).collect();
        prop_assert_eq!(read(envfile::docker(&written(Format::DockerEnv, &of, typed))), expected(&of));
    }

    #[test]
    fn dotenv_reads_what_was_written(of in vec(text(), 1..12), typed: bool) {
        prop_assert_eq!(read(envfile::dotenv(&written(Format::Dotenv, &of, typed))), expected(&of));
    }

    #[test]
    fn yaml_json_and_toml_read_what_was_written(of in vec(text(), 1..12)) {
        for format in [Format::Yaml, Format::Json, Format::Toml] {
            let (filter, colon, open, close) = match format {
                Format::Yaml => ("yaml", ": ", "", ""),
                Format::Toml => ("toml", " = ", "", ""),
                _ => ("json", ": ", "{", "}"),
            };
            let comma = if format == Format::Json { "," } else { "" };
            let mut text = String::from(open);
            for i in 0..of.len() {
                let comma = if i + 1 < of.len() { comma } else { "" };
                text += &format!("\"x{i}\"{colon}{{{{ secrets.s.v{i} | {filter} | indent(width=2) }}}}{comma}\n");
            }
            // The same texts as keys: only where the structure is free, for then a value makes a key.
            text += close;
            let out = output(file("/out", Source::Inline(text), format), &values(&of)).unwrap();
            let found = parsed(format, std::str::from_utf8(&out).unwrap());
            let want: BTreeMap<String, String> = of.iter().enumerate().map(|(i, v)| (format!("x{i}"), v.clone())).collect();
            prop_assert_eq!(found, want);
        }
    }

    #[test]
    fn a_quoted_value_stands_as_a_key_where_the_structure_is_free(key in text()) {
        for (format, text) in [
            (Format::Yaml, "{{ secrets.s.v0 | yaml }}: x\n"),
            (Format::Json, "{{{ secrets.s.v0 | json }}: \"x\"}"),
            (Format::Toml, "{{ secrets.s.v0 | toml }} = 'x'\n"),
        ] {
            // YAML's implicit keys end at 1024 characters.
            if key.len() > 150 || (format == Format::Yaml && key == "<<") {
                continue;
            }
            let text = text.replace("{{{", "{ {{");
            let mut config = file("/out", Source::Inline(text), format);
            config.structure = Structure::Free;
            let out = output(config, &values(std::slice::from_ref(&key))).unwrap();
            let found = parsed(format, std::str::from_utf8(&out).unwrap());
            prop_assert_eq!(found, BTreeMap::from([(key.clone(), "x".to_string())]));
        }
    }

    #[test]
    fn an_unquoted_value_never_adds_a_key(value in attack(), which in 0..TEMPLATES.len()) {
        let (format, text) = TEMPLATES[which];
        let config = file("/out", Source::Inline(text.to_string()), format);
        let Ok(out) = output(config, &values(&[value])) else { return Ok(()) };
        let out = String::from_utf8(out).unwrap();
        match format {
            Format::Yaml | Format::Json | Format::Toml => prop_assert_eq!(keys(&tree(format, &out)), "{a:.,b:{c:[.,.]}}"),
            Format::Shell => {
                // Run with an empty PATH: what a value may have injected finds nothing to do harm with.
                let script = "PATH=; eval \"$(/bin/cat)\" >/dev/null 2>&1; printf %s \"${evil-}\"";
                let set = run("/bin/sh", &["-c", script], &out);
                prop_assert_eq!(String::from_utf8(set).unwrap(), "");
            }
            Format::SystemdEnv => {
                let names: Vec<String> = parse_env_file(out.as_bytes()).into_iter().map(|(n, _)| n).collect();
                prop_assert_eq!(names, ["a", "b"]);
            }
            Format::Dotenv => prop_assert_eq!(names(envfile::dotenv(&out)), ["a", "b"]),
            _ => prop_assert_eq!(names(envfile::docker(&out)), ["a", "b"]),
        }
    }
}

fn names(variables: Result<Vec<envfile::Variable>, usize>) -> Vec<String> {
    read(variables).into_iter().map(|(name, _)| name).collect()
}

/// Values that try to add the key or the variable `evil`.
fn attack() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec![
        "\n",
        "\nevil: 1",
        "\n  evil: 1",
        "\nevil = 1",
        "\nevil=1",
        "\r\nevil=1",
        ";evil=1;",
        "&&evil=1",
        "$(evil)",
        "`evil`",
        "${evil:=1}",
        "\"",
        "'",
        "\\",
        ",",
        ", evil: 1",
        "\", \"evil\": \"1",
        "', 'evil': '1",
        "}",
        "{",
        "{evil: 1}",
        "[1]",
        "]",
        "#",
        " #",
        ": ",
        ": evil",
        "- ",
        "a",
        "x ",
        "|",
        ">",
        "|-\n   evil: 1",
        "*x",
        "&x",
        "!!map",
        "? ",
        "\n---\n",
        "<<: {evil: 1}",
        "\"\nevil = \"1",
        "\"\"\"",
        "\n[evil]\n",
        "\t",
        "evil",
        "=",
        "'\nevil='1",
        "\"\nevil=\"1",
        "\\\n",
        " export evil=1",
    ]);
    vec(part, 1..5).prop_map(|parts| parts.concat())
}

const TEMPLATES: [(Format, &str); 14] = [
    (Format::Yaml, "a: {{ secrets.s.v0 }}\nb:\n  c: [1, 2]\n"),
    (Format::Yaml, "a: '{{ secrets.s.v0 }}'\nb:\n  c: [1, 2]\n"),
    (Format::Yaml, "a: \"{{ secrets.s.v0 }}\"\nb:\n  c: [1, 2]\n"),
    (Format::Yaml, "b:\n  c:\n    - {{ secrets.s.v0 }}\n    - 2\na: |\n  {{ secrets.s.v0 }}\n"),
    (Format::Yaml, "{a: {{ secrets.s.v0 }}, b: {c: [1, '{{ secrets.s.v0 }}']}}\n"),
    (Format::Json, "{\"a\": \"{{ secrets.s.v0 }}\", \"b\": {\"c\": [1, 2]}}"),
    (Format::Json, "{\"a\": {{ secrets.s.v0 | json }}, \"b\": {\"c\": [1, \"{{ secrets.s.v0 }}\"]}}"),
    (Format::Toml, "a = \"{{ secrets.s.v0 }}\"\nb = {c = [1, 2]}\n"),
    (Format::Toml, "a = '''{{ secrets.s.v0 }}'''\nb = {c = [1, 2]}\n"),
    (Format::Shell, "a={{ secrets.s.v0 }}\nb=1\n"),
    (Format::Shell, "a=\"{{ secrets.s.v0 }}\" b='{{ secrets.s.v0 }}'\n"),
    (Format::SystemdEnv, "a={{ secrets.s.v0 }}\nb=\"{{ secrets.s.v0 }}\"\n"),
    (Format::Dotenv, "a={{ secrets.s.v0 }}\nb='{{ secrets.s.v0 }}'\n"),
    (Format::DockerEnv, "a={{ secrets.s.v0 }}\nb=1\n"),
];

fn tree(format: Format, text: &str) -> serde_json::Value {
    match format {
        Format::Yaml => serde_yaml::from_str(text).unwrap(),
        Format::Json => serde_json::from_str(text).unwrap(),
        _ => toml::from_str(text).unwrap(),
    }
}

fn keys(value: &serde_json::Value) -> String {
    match value {
        serde_json::Value::Array(list) => format!("[{}]", list.iter().map(keys).collect::<Vec<_>>().join(",")),
        serde_json::Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            format!("{{{}}}", sorted.iter().map(|(k, v)| format!("{k}:{}", keys(v))).collect::<Vec<_>>().join(","))
        }
        _ => ".".to_string(),
    }
}

fn parsed(format: Format, text: &str) -> BTreeMap<String, String> {
    match format {
        Format::Yaml => serde_yaml::from_str(text).unwrap(),
        Format::Json => serde_json::from_str(text).unwrap(),
        _ => toml::from_str(text).unwrap(),
    }
}

/// Whether python3 is there with a module.
fn python_has(module: &str) -> bool {
    let found = Command::new("python3").args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    if !found {
        skip(&format!("no python3 with {module}"));
    }
    found
}

fn many(count: usize) -> Vec<Vec<String>> {
    use proptest::strategy::ValueTree;
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    (0..count).map(|_| vec(text(), 1..12).new_tree(&mut runner).unwrap().current()).collect()
}

#[test]
fn the_real_python_dotenv_reads_what_was_written() {
    if !python_has("dotenv.parser") {
        return;
    }
    let cases = many(300);
    let dir = tempfile::tempdir().unwrap();
    for (i, of) in cases.iter().enumerate() {
        std::fs::write(dir.path().join(i.to_string()), written(Format::Dotenv, of, i % 2 == 0)).unwrap();
    }
    let script = "import sys, json, dotenv\n\
        print(json.dumps([list(map(list, dotenv.dotenv_values(f'{sys.argv[1]}/{i}').items())) for i in range(int(sys.argv[2]))]))";
    let out = run("python3", &["-c", script, dir.path().to_str().unwrap(), &cases.len().to_string()], "");
    let found: Vec<Vec<(String, String)>> = serde_json::from_slice(&out).unwrap();
    for (found, of) in found.into_iter().zip(&cases) {
        assert_eq!(found, expected(of));
    }
}

#[test]
fn the_real_pyyaml_reads_what_was_written() {
    if !python_has("yaml") {
        return;
    }
    let cases = many(300);
    let documents: Vec<String> = cases
        .iter()
        .map(|of| {
            let lines: String = (0..of.len()).map(|i| format!("X{i}: {{{{ secrets.s.v{i} | yaml }}}}\n")).collect();
            String::from_utf8(output(file("/out", Source::Inline(lines), Format::Yaml), &values(of)).unwrap()).unwrap()
        })
        .collect();
    let script = "import sys, json, yaml\nprint(json.dumps([yaml.safe_load(d) for d in json.load(sys.stdin)]))";
    let out = run("python3", &["-c", script], &serde_json::to_string(&documents).unwrap());
    let found: Vec<BTreeMap<String, String>> = serde_json::from_slice(&out).unwrap();
    for (found, of) in found.into_iter().zip(&cases) {
        assert_eq!(found, expected(of).into_iter().collect());
    }
}

#[test]
fn what_a_reader_cannot_read_is_refused() {
    let refused = |format, text: &str| {
        let of = [text.to_string()];
        output(env_file(format, &of, true), &values(&of)).err().map(|e| e.message).unwrap_or_default()
    };
    assert!(refused(Format::DockerEnv, "a\nb").contains("line break"));
    assert!(refused(Format::DockerEnv, "a\r").contains("carriage return"));
    assert!(refused(Format::DockerEnv, &"x".repeat(70_000)).contains("64 KiB"));
    assert!(refused(Format::SystemdEnv, "\u{FFFE}").contains("noncharacter"));
    for format in
        [Format::SystemdEnv, Format::DockerEnv, Format::Dotenv, Format::Shell, Format::Yaml, Format::Json, Format::Toml]
    {
        assert!(refused(format, "a\0b").contains("NUL"), "{format:?}");
    }
    let long = ["x'\"\\".repeat(50_000)];
    for format in [Format::SystemdEnv, Format::Dotenv, Format::Shell] {
        assert!(output(env_file(format, &long, true), &values(&long)).is_ok(), "{format:?}");
    }
}

#[test]
fn a_pem_block_keeps_its_lines_under_indent() {
    let pem = "-----BEGIN KEY-----\nabc\n  def\n-----END KEY-----\n".to_string();
    let text = "key: |\n  {{ secrets.s.v0 | indent(width=2) }}b: 1\n";
    let out = output(file("/out", Source::Inline(text.to_string()), Format::Yaml), &values(std::slice::from_ref(&pem)));
    // The placeholder has no line of its own end, so this layout cannot be checked and says so.
    assert!(out.is_err());
    let text = "key: |\n  {{ secrets.s.v0 | trim | indent(width=2) }}\nb: 1\n";
    let out = output(file("/out", Source::Inline(text.to_string()), Format::Yaml), &values(std::slice::from_ref(&pem)));
    let found: BTreeMap<String, serde_json::Value> = serde_yaml::from_slice(&out.unwrap()).unwrap();
    assert_eq!(found["key"], pem.as_str());
}
