use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::config::model::{
    Confirm, Format, HealthCheck, HealthConfig, Locator, OnUnhealthy, ReloadConfig, Settle, Source, Structure,
};
use crate::render::RenderErrorKind;
use crate::secret::{Field, Reading, SecretBytes};

pub(super) fn secret(name: &str) -> (SecretName, SecretConfig) {
    let name = SecretName::new(name);
    let config = SecretConfig {
        name: name.clone(),
        store: "local".into(),
        locator: Locator::File { key: name.to_string() },
        poll: None,
        overlap: Duration::ZERO,
        max_age: None,
        expect: BTreeMap::new(),
        verify: None,
    };
    (name, config)
}

fn file(path: &str, source: Source, format: Format) -> FileConfig {
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

fn inline(text: &str, format: Format) -> FileConfig {
    file("/out", Source::Inline(text.to_string()), format)
}

fn target(files: Vec<FileConfig>) -> TargetConfig {
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
        pass_env: vec!["HOME_DIR".to_string()],
    }
}

fn reading(version: &str, fields: &[(&str, Field)]) -> Arc<Reading> {
    let fields = fields.iter().map(|(name, field)| ((*name).to_string(), field.clone())).collect();
    let created_at = Some("2026-01-02T03:04:05Z".parse().unwrap());
    Arc::new(Reading { created_at, ..Reading::new(fields, Version(version.to_string())) })
}

type Named<'a> = (&'a str, &'a str, &'a [(&'a str, Field)]);

fn snapshot(secrets: &[Named<'_>]) -> Snapshot {
    let secrets = secrets.iter().map(|(name, version, fields)| (SecretName::new(*name), reading(version, fields)));
    Snapshot { secrets: secrets.collect(), previous: BTreeMap::new() }
}

fn db(password: &str) -> Snapshot {
    snapshot(&[("db", password, &[("password", Field::text(password)), ("port", Field::Number("5432".into()))])])
}

fn declared(names: &[&str]) -> Secrets {
    names.iter().map(|name| secret(name)).collect()
}

fn renderer_of(target: TargetConfig, names: &[&str]) -> Result<Renderer, Vec<RenderError>> {
    let env = BTreeMap::from([("HOME_DIR".to_string(), "/home/x".to_string())]);
    Renderer::new(&Arc::new(target), &declared(names), &Sources::new("/etc/app"), &Key::new(b"k"), &env)
}

fn renderer(text: &str, format: Format) -> Renderer {
    renderer_of(target(vec![inline(text, format)]), &["db", "a-b", "other"]).unwrap_or_else(|e| panic!("{e:?}"))
}

fn out(text: &str, format: Format, snapshot: &Snapshot) -> Result<String, RenderError> {
    let rendered = renderer(text, format).render(snapshot)?;
    Ok(String::from_utf8(rendered.files[0].bytes.expose().to_vec()).unwrap())
}

fn text_out(text: &str) -> Result<String, RenderError> {
    out(text, Format::Text, &db("p w"))
}

#[test]
fn a_template_sees_fields_meta_env_and_the_snapshot() {
    assert_eq!(text_out("{{ secrets.db.password }}:{{ secrets.db.port + 1 }}").unwrap(), "p w:5433");
    assert_eq!(text_out("{{ meta.db.version }} {{ meta.db.created_at }}").unwrap(), "p w 2026-01-02T03:04:05Z");
    assert_eq!(text_out("{{ env.HOME_DIR }}").unwrap(), "/home/x");
    assert_eq!(text_out("{{ snapshot }}{{ secrets.db.port }}").unwrap().len(), 12 + 4);
    assert_eq!(text_out("{{ secrets.db.password | urlencode }}").unwrap(), "p%20w");
}

#[test]
fn what_is_missing_is_an_error_with_its_place_even_where_tera_would_print_nothing() {
    for text in [
        "a\n  {{ secrets.db.nope }}",
        "a\n  {{ secrets.db.nope ~ 'x' }}",
        "a\n  {{ secrets.db.nope | str }}",
        "a\n  {{ secrets.db.nope | upper }}",
    ] {
        let error = text_out(text).unwrap_err();
        assert_eq!((error.kind, error.line, error.column), (RenderErrorKind::MissingField, 2, 6), "{text} {error}");
        assert!(error.message.contains("secret `db` has no field `nope`"), "{error}");
    }
    let error = text_out("{{ 'x' | replace(from='x', to=secrets.db.nope) }}").unwrap_err();
    assert_eq!((error.kind, error.column), (RenderErrorKind::MissingField, 31), "{error}");
    let error = text_out("{% if secrets.db.nope %}x{% endif %}").unwrap_err();
    assert_eq!(error.kind, RenderErrorKind::MissingField);
    let error = out("{{ secrets.other.x }}", Format::Text, &db("x")).unwrap_err();
    assert_eq!(error.kind, RenderErrorKind::MissingSecret);
    assert_eq!(text_out("{{ meta.db.custom.owner }}").unwrap_err().kind, RenderErrorKind::MissingField);
    assert_eq!(text_out("{{ meta.db.custom | length }}").unwrap(), "0");
    assert_eq!(text_out("{{ meta.db.expires_at }}").unwrap_err().kind, RenderErrorKind::MissingField);
}

#[test]
fn a_template_may_ask_whether_something_is_there() {
    assert_eq!(text_out("{{ secrets.db.nope | default(value='d') }}").unwrap(), "d");
    assert_eq!(text_out("{% if previous.db.password is defined %}y{% else %}n{% endif %}").unwrap(), "n");
    let mut both = db("new");
    both.previous = db("old").secrets;
    let text = "{% if previous.db.password is defined %}{{ previous.db.password }}{% endif %}";
    assert_eq!(out(text, Format::Text, &both).unwrap(), "old");
    assert_eq!(text_out("{% if previous.db %}y{% else %}n{% endif %}").unwrap(), "n");
    assert_eq!(text_out("{{ previous.db.password }}").unwrap_err().kind, RenderErrorKind::MissingField);
}

#[test]
fn names_that_are_no_identifiers_are_reached_by_subscript() {
    let snapshot = snapshot(&[("a-b", "1", &[("x.y", Field::text("v"))])]);
    assert_eq!(out("{{ secrets[\"a-b\"][\"x.y\"] }}", Format::Text, &snapshot).unwrap(), "v");
}

#[test]
fn bytes_stay_bytes_and_are_refused_where_text_is_needed() {
    let raw = vec![0u8, 255, 10, 200];
    let snapshot =
        snapshot(&[("db", "1", &[("raw", Field::from_bytes(raw.clone())), ("b64", Field::text("AP8KyA=="))])]);
    assert_eq!(out("{{ secrets.db.raw | b64encode }}", Format::Text, &snapshot).unwrap(), "AP8KyA==");
    for text in ["{{ secrets.db.raw }}", "{{ secrets.db.b64 | b64decode }}", "{% set r = secrets.db.raw %}{{ r }}"] {
        let rendered = renderer(text, Format::Text).render(&snapshot).unwrap();
        assert_eq!(rendered.files[0].bytes.expose(), raw);
    }
    assert_eq!(out("a: {{ secrets.db.raw }}", Format::Yaml, &snapshot).unwrap_err().kind, RenderErrorKind::NotText);
    assert_eq!(
        out("a: {{ secrets.db.raw | yaml }}", Format::Yaml, &snapshot).unwrap_err().kind,
        RenderErrorKind::Filter
    );
}

#[test]
fn nul_is_refused_everywhere() {
    let snapshot = db("a\0b");
    for (text, format) in [
        ("{{ secrets.db.password }}", Format::Text),
        ("a: {{ secrets.db.password | yaml }}", Format::Yaml),
        ("A={{ secrets.db.password | env_quote }}", Format::SystemdEnv),
        ("A={{ secrets.db.password | shell_quote }}", Format::Shell),
    ] {
        let error = out(text, format, &snapshot).unwrap_err();
        assert!(error.message.contains("NUL"), "{error}");
    }
}

#[test]
fn a_value_cannot_change_the_structure_unless_allowed() {
    let evil = db("a\nevil: x");
    let error = out("key: {{ secrets.db.password }}\nb: 1\n", Format::Yaml, &evil).unwrap_err();
    assert_eq!(error.kind, RenderErrorKind::Structure);
    assert!(!error.to_string().contains("evil"), "{error}");
    assert!(out("key: {{ secrets.db.password | yaml }}\nb: 1\n", Format::Yaml, &evil).is_ok());
    let mut free = inline("key: {{ secrets.db.password }}\n", Format::Yaml);
    free.structure = Structure::Free;
    assert!(renderer_of(target(vec![free]), &["db"]).unwrap_or_else(|e| panic!("{e:?}")).render(&evil).is_ok());
    let error = out("A={{ secrets.db.password }}\n", Format::Shell, &db("$(id)")).unwrap_err();
    assert_eq!(error.kind, RenderErrorKind::Structure);
}

#[test]
fn only_what_uses_a_changed_secret_is_rendered_again() {
    let files = vec![
        inline("{{ secrets.db.password }}", Format::Text),
        inline("{{ secrets.other.x }}", Format::Text),
        inline("{{ snapshot }}", Format::Text),
        inline("{% for n, s in secrets %}{{ n }}{% endfor %}", Format::Text),
    ];
    let renderer = renderer_of(target(files), &["db", "other"]).unwrap_or_else(|e| panic!("{e:?}"));
    let at = |password: &str, x: &str| {
        snapshot(&[("db", password, &[("password", Field::text(password))]), ("other", x, &[("x", Field::text(x))])])
    };
    let first = renderer.render(&at("1", "1")).unwrap();
    assert_eq!(renderer.lock().renders, 4);
    let same = renderer.render(&at("1", "1")).unwrap();
    assert_eq!(renderer.lock().renders, 4);
    assert!(Arc::ptr_eq(&first.files[0].bytes, &same.files[0].bytes));
    let second = renderer.render(&at("1", "2")).unwrap();
    assert_eq!(renderer.lock().renders, 7);
    assert!(Arc::ptr_eq(&first.files[0].bytes, &second.files[0].bytes));
    assert_eq!(second.files[1].bytes.expose(), b"2");
    let mut overlap = at("1", "2");
    overlap.previous = at("0", "0").secrets;
    renderer.render(&overlap).unwrap();
    assert_eq!(renderer.lock().renders, 11, "a version before counts as well");
}

#[test]
fn a_failed_render_is_tried_again_and_keeps_the_rest() {
    let renderer = renderer("{{ secrets.db.password }}", Format::Text);
    assert!(renderer.render(&Snapshot::default()).is_err());
    assert!(renderer.render(&Snapshot::default()).is_err());
    assert!(renderer.render(&db("x")).is_ok());
}

#[test]
fn a_dynamic_use_counts_as_every_secret() {
    for text in
        ["{{ secrets[env.HOME_DIR].x }}", "{% for n, s in secrets %}{{ n }}{% endfor %}", "{{ secrets | length }}"]
    {
        assert_eq!(renderer(text, Format::Text).used_secrets().len(), 3, "{text}");
    }
    assert_eq!(renderer("{{ secrets.db.password }}", Format::Text).used_secrets(), [SecretName::new("db")]);
    let text = "{% set d = secrets.db %}{{ d.password }}{{ <X a={secrets['a-b']} /> }}{% component X(a) %}{{ a }}{% endcomponent %}";
    assert_eq!(renderer(text, Format::Text).used_secrets().len(), 2);
}

#[test]
fn includes_are_taken_from_the_folder_of_the_template() {
    let mut sources = Sources::new("/etc/app");
    let target = target(vec![file("/out", Source::Template("/etc/app/t/main.tera".into()), Format::Text)]);
    assert_eq!(sources.missing(&target).into_iter().collect::<Vec<_>>(), [Path::new("/etc/app/t/main.tera")]);
    sources.insert("/etc/app/t/main.tera", "{% include \"sub/a.tera\" %}!");
    assert_eq!(sources.missing(&target).into_iter().collect::<Vec<_>>(), [Path::new("/etc/app/t/sub/a.tera")]);
    sources.insert("/etc/app/t/sub/a.tera", "{% include '../b.tera' %}{{ secrets.db.password }}");
    sources.insert("/etc/app/t/b.tera", "\n b{{ secrets.db.nope | default(value='') }}");
    assert!(sources.missing(&target).is_empty());
    let target = Arc::new(target);
    let new =
        |sources: &Sources| Renderer::new(&target, &declared(&["db"]), sources, &Key::new(b"k"), &BTreeMap::new());
    let renderer = new(&sources).unwrap_or_else(|e| panic!("{e:?}"));
    assert_eq!(renderer.render(&db("p")).unwrap().files[0].bytes.expose(), b"\n bp!");
    assert_eq!(renderer.used_secrets().len(), 1);
    sources.insert("/etc/app/t/b.tera", "\n b{{ secrets.db.nope }}");
    let error = new(&sources).unwrap_or_else(|e| panic!("{e:?}")).render(&db("p")).err().unwrap();
    assert_eq!((&*error.file, error.line, error.column), ("/etc/app/t/b.tera", 2, 6));
}

#[test]
fn the_inputs_digest_changes_with_versions_texts_and_config_only() {
    let base = || target(vec![inline("{{ secrets.db.password }}", Format::Text)]);
    let of = |target: TargetConfig, s: &Snapshot| {
        renderer_of(target, &["db"]).unwrap_or_else(|e| panic!("{e:?}")).inputs_digest(s)
    };
    let first = of(base(), &db("1"));
    assert_eq!(first, of(base(), &db("1")));
    assert_ne!(first, of(base(), &db("2")));
    let mut overlap = db("1");
    overlap.previous = db("0").secrets;
    assert_ne!(first, of(base(), &overlap));
    let mut mode = base();
    mode.files[0].mode = 0o640;
    assert_ne!(first, of(mode, &db("1")));
    let mut text = base();
    text.files[0].source = Source::Inline("{{ secrets.db.password }} ".to_string());
    assert_ne!(first, of(text, &db("1")));
}

#[test]
fn expect_names_secret_and_field_and_never_the_value() {
    let mut secrets = declared(&["db"]);
    secrets.get_mut(&SecretName::new("db")).unwrap().expect =
        BTreeMap::from([("password".to_string(), regex_lite::Regex::new("^sk-").unwrap())]);
    let target = Arc::new(target(vec![inline("{{ secrets.db.password }}", Format::Text)]));
    let renderer = Renderer::new(&target, &secrets, &Sources::default(), &Key::new(b"k"), &BTreeMap::new());
    let renderer = renderer.unwrap_or_else(|e| panic!("{e:?}"));
    assert!(renderer.expect(&db("sk-1")).is_ok());
    let error = renderer.expect(&db("canary")).unwrap_err();
    assert_eq!(error.to_string(), "secrets.db.expect.password: field `password` of secret `db` does not match `^sk-`");
}

fn request(url: &str, header: &str) -> HttpRequest {
    HttpRequest {
        url: url.to_string(),
        method: "GET".to_string(),
        headers: vec![("x-api-key".to_string(), header.to_string())],
        body: Some("{{ secrets.db.password | json }}".to_string()),
        status: vec![200],
        body_contains: None,
        json: vec![
            ("/a".to_string(), serde_json::json!("{{ secrets.db.port }}")),
            ("/b".to_string(), serde_json::json!(1)),
        ],
        ca_cert: None,
        timeout: Duration::from_secs(1),
        confirm: None,
    }
}

#[test]
fn requests_are_rendered_over_the_snapshot_and_cannot_carry_a_line_break() {
    let mut secrets = declared(&["db", "other"]);
    secrets.get_mut(&SecretName::new("db")).unwrap().verify =
        Some(request("http://x/{{ secrets.db.password | urlencode }}", "{{ secrets.db.password }}"));
    let mut config = target(vec![inline("{{ secrets.db.password }}", Format::Text)]);
    let mut health = request("http://h/{{ snapshot }}", "v");
    let confirm = Confirm { request: request("http://c/{{ snapshot }}", "{{ secrets.db.password }}"), times: 7 };
    health.confirm = Some(Box::new(confirm));
    config.health.check = HealthCheck::Http(health);
    let renderer = Renderer::new(&Arc::new(config), &secrets, &Sources::default(), &Key::new(b"k"), &BTreeMap::new());
    let renderer = renderer.unwrap_or_else(|e| panic!("{e:?}"));
    let (name, verify) = renderer.verify_requests(&db("p w")).unwrap().remove(0);
    assert_eq!((name.as_str(), verify.url.as_str(), verify.headers[0].1.as_str()), ("db", "http://x/p%20w", "p w"));
    assert_eq!((verify.body.as_deref(), &verify.json[0].1), (Some("\"p w\""), &serde_json::json!("5432")));
    let health = renderer.render(&db("p")).unwrap().health.unwrap();
    assert_eq!(health.url, format!("http://h/{}", renderer.snapshot_digest(&db("p"))));
    let confirm = health.confirm.unwrap();
    assert_eq!(confirm.request.url, format!("http://c/{}", renderer.snapshot_digest(&db("p"))));
    assert_eq!((confirm.request.headers[0].1.as_str(), confirm.times), ("p", 7));
    let error = renderer.verify_requests(&db("p\r\nX: y")).err().unwrap();
    assert!(error.message.contains("line break"), "{error}");
}

#[test]
fn env_is_quoted_for_its_reader_in_order() {
    let values = vec![
        ("B".to_string(), "x{{ secrets.db.password }}".to_string()),
        ("A".to_string(), "{{ secrets.db.port }}".to_string()),
    ];
    let of = |format, password: &str| {
        let files = vec![file("/env", Source::Env(values.clone()), format)];
        let rendered = renderer_of(target(files), &["db"]).unwrap_or_else(|e| panic!("{e:?}")).render(&db(password))?;
        Ok::<_, RenderError>(String::from_utf8(rendered.files[0].bytes.expose().to_vec()).unwrap())
    };
    assert_eq!(of(Format::SystemdEnv, "a\"$b").unwrap(), "B=\"xa\\\"\\$b\"\nA=\"5432\"\n");
    assert_eq!(of(Format::Shell, "a'b").unwrap(), "export B='xa'\\''b'\nexport A='5432'\n");
    assert_eq!(of(Format::Dotenv, "a${b}\\").unwrap(), "B='xa${:-$}{b}\\\\${:-}'\nA='5432'\n");
    assert_eq!(of(Format::DockerEnv, " a\"b ").unwrap(), "B=x a\"b \nA=5432\n");
    assert_eq!(of(Format::Json, "a\n").unwrap(), "{\n  \"B\": \"xa\\n\",\n  \"A\": \"5432\"\n}\n");
    assert_eq!(of(Format::Toml, "a\n").unwrap(), "\"B\" = \"xa\\n\"\n\"A\" = \"5432\"\n");
    let error = of(Format::DockerEnv, "a\nb").unwrap_err();
    assert_eq!((error.kind, &*error.file), (RenderErrorKind::Filter, "targets.app.files[0].env.B"));
}

#[test]
fn resolve_replaces_whole_values_and_nothing_else() {
    let text = "# vault://a/b#key stays\na: vault://a/b#key   # c\nb: 'vault://a/b#key'\nc: \"vault://a/b#key\"\n\
                d: see vault://a/b#key\ne: [vault://a/b#key, x]\nf: {g: vault://a/b#port}\nh: |\n  vault://a/b#key in a block\n";
    let mut sources = Sources::default();
    sources.insert("/in.yaml", text);
    let of = |format, sources: &Sources, value: &str| {
        let files = vec![file("/out", Source::Resolve("/in.yaml".into()), format)];
        let uri = "vault://a/b";
        let new =
            Renderer::new(&Arc::new(target(files)), &declared(&[uri]), sources, &Key::new(b"k"), &BTreeMap::new());
        let renderer = new.map_err(|mut e| e.remove(0))?;
        assert_eq!(renderer.used_secrets(), [SecretName::new(uri)]);
        let fields = [("key", Field::text(value)), ("port", Field::Number("5432".into()))];
        let rendered = renderer.render(&snapshot(&[(uri, value, &fields)]))?;
        Ok::<_, RenderError>(String::from_utf8(rendered.files[0].bytes.expose().to_vec()).unwrap())
    };
    let want = "# vault://a/b#key stays\na: \"x: 'y\"   # c\nb: 'x: ''y'\nc: \"x: 'y\"\n\
                d: see vault://a/b#key\ne: [\"x: 'y\", x]\nf: {g: 5432}\nh: |\n  vault://a/b#key in a block\n";
    assert_eq!(of(Format::Yaml, &sources, "x: 'y").unwrap(), want);
    sources.insert("/in.yaml", "{\"a\": \"vault://a/b#key\",\n \"b\": \"no vault://a/b#key\"}");
    assert_eq!(of(Format::Json, &sources, "\"\n").unwrap(), "{\"a\": \"\\\"\\n\",\n \"b\": \"no vault://a/b#key\"}");
    for (format, quoted) in [
        (Format::SystemdEnv, "\"a b\\$\""),
        (Format::DockerEnv, "a b$"),
        (Format::Dotenv, "'a b$'"),
        (Format::Shell, "'a b$'"),
    ] {
        sources.insert("/in.yaml", "# c\nX=vault://a/b#key\nY=1\n");
        assert_eq!(of(format, &sources, "a b$").unwrap(), format!("# c\nX={quoted}\nY=1\n"), "{format:?}");
    }
    sources.insert("/in.yaml", "a: |-\n  vault://a/b#key\n");
    let error = of(Format::Yaml, &sources, "x").unwrap_err();
    assert_eq!((error.kind, error.line), (RenderErrorKind::Reference, 2), "{error}");
}

#[test]
fn check_offline_finds_what_no_value_can_mend_and_nothing_else() {
    let faults = |text: &str, format| renderer(text, format).check_offline();
    assert_eq!(faults("{{ secrets.db.port + 1 }}{{ secrets.db.raw | b64decode }}", Format::Text), []);
    assert_eq!(faults("{% set d = secrets.db %}{{ d.password }}", Format::Text), []);
    assert_eq!(faults("{% for n, s in secrets %}{{ s.x }}{% endfor %}", Format::Text), []);
    let found = faults("{{ secrets.db.x | round(method='nope') }}", Format::Text);
    assert_eq!(found.len(), 1, "{found:?}");
    let found = faults("a: {{ secrets.db.x }}\na: 1\n", Format::Yaml);
    assert!(found.len() == 1 && found[0].message.contains("same key twice"), "{found:?}");
    let found = faults("{% if previous.db.x is defined %}{{ nope }}{% endif %}", Format::Text);
    assert_eq!(found.len(), 1, "the branch of the overlap is looked at too: {found:?}");
}

#[test]
fn uses_name_the_secret_the_field_and_the_place() {
    let uses = renderer("x\n{{ secrets.db.password }}{{ meta['a-b'].version }}", Format::Text).uses();
    let short: Vec<_> = uses
        .iter()
        .map(|u| (u.secret.as_ref().map(SecretName::as_str), u.field.as_deref(), u.line, u.column))
        .collect();
    assert_eq!(short, [(Some("db"), Some("password"), 2, 4), (Some("a-b"), None, 2, 29)]);
}

#[test]
fn a_value_shown_by_throw_or_by_a_filter_is_withheld() {
    for text in [
        "{{ throw(message=secrets.db.password) }}",
        "{{ secrets.db.password | int }}",
        "{{ secrets.db.password | b64decode }}",
        "{{ {'a': 1} | get(key=secrets.db.password) }}",
    ] {
        let error = out(text, Format::Text, &db("canary!!")).unwrap_err().to_string();
        assert!(!error.contains("canary"), "{error}");
    }
    assert!(text_out("{{ throw(message='mine') }}").unwrap_err().message == "mine");
}

#[test]
fn the_bytes_of_an_output_are_zeroized_secret_bytes() {
    let rendered = renderer("{{ secrets.db.password }}", Format::Text).render(&db("x")).unwrap();
    let bytes: &SecretBytes = &rendered.files[0].bytes;
    assert_eq!(format!("{bytes:?}"), "<1 secret bytes>");
}
