//! No secret leaks: every command of the real binary at trace level over a config full of canaries, and a search for them
//! in all that it says, writes and shows.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "../support/agent.rs"]
mod agent;
mod canary;
mod faults;
mod own;
#[path = "../support/ports.rs"]
mod ports;
mod procs;
mod server;
mod world;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::Signal;

use agent::Agent;
use canary::{Canaries, Net, Seen};
use procs::Watcher;
use server::Echo;
use world::{admin, call};

/// Files of state_dir that hold values by design.
fn holds_values(path: &Path) -> bool {
    let text = path.to_string_lossy();
    let in_generation = text.contains("/generations/");
    // In memory a value may be remembered.
    (text.ends_with("/overlap.json") && path.parent().is_some_and(leasehold::state_dir::memory_backed))
        || (in_generation
            && (text.contains("/files/") || text.ends_with("/env.json") || text.ends_with("/health.json")))
}

/// 0600, in folders that nobody else may enter.
fn assert_private(path: &Path, state: &Path) {
    let mode = |path: &Path| path.symlink_metadata().unwrap().mode() & 0o7777;
    assert_eq!(mode(path), 0o600, "{}", path.display());
    for folder in path.ancestors().skip(1).take_while(|folder| folder.starts_with(state)) {
        assert_eq!(mode(folder), 0o700, "{}", folder.display());
    }
}

#[test]
fn nothing_leaks_with_text_logs() {
    lifecycle("text");
}

#[test]
fn nothing_leaks_with_json_logs() {
    lifecycle("json");
}

/// Everything that can happen to a config, one after the other.
fn lifecycle(format: &str) {
    let echo = Echo::start();
    let (mut agent, canaries) = world::build(&echo, 3);
    let net = canaries.net();
    let mut seen = Seen::default();
    before_the_start(&agent, format, &mut seen);
    agent.start_with(&["--log-level", "trace", "--log-format", format, "run"]);
    let watcher = Watcher::start(agent.pid());
    first_rotation(&mut agent, &echo, &mut seen);
    asked(&agent, format, &mut seen);
    a_bad_round(&mut agent, format, &mut seen);
    half_written_stores(&mut agent, format, &mut seen);
    a_good_round(&mut agent, format, &mut seen);
    back_and_forth(&mut agent, format, &mut seen);
    faulty_config(&mut agent, format, &mut seen);
    trampoline(&mut agent, &watcher);
    processes(&agent, &watcher, &canaries, &net, &mut seen);
    drop(watcher);
    agent.stop();
    after_a_restart(&mut agent, format, &mut seen);
    only_files(&mut agent, format, &mut seen);
    seen.add("log", agent.read("log"));
    files(&agent, &canaries, &mut seen);
    assert!(seen.names().count() > 60, "{}", seen.names().count());
    seen.assert_clean(&net);
}

fn before_the_start(agent: &Agent, format: &str, seen: &mut Seen) {
    let (code, _, err) = call(agent, format, &["check", "--offline"], seen);
    assert_eq!(code, 65, "bad templates are found: {err}");
    let (_, _, err) = call(agent, format, &["check"], seen);
    assert!(err.contains("***") && err.contains("refused the new contents"), "{err}");
    call(agent, format, &["render", "--once", "--dry-run"], seen);
    call(agent, format, &["render", "--once", "--dry-run", "--json"], seen);
    call(agent, format, &["render", "--once", "--target", "app", "--target", "bad-1", "--json"], seen);
    assert!(agent.read("out/all.yaml").contains("-----BEGIN PRIVATE KEY-----"), "the good target was rendered");
    call(agent, format, &["render", "--once", "--dry-run", "--target", "app", "--target", "bad-1"], seen);
    let (code, _, _) = call(agent, format, &["render", "--once"], seen);
    assert_eq!(code, 65);
    for args in [
        &["status"][..],
        &["history"],
        &["refresh"],
        &["refresh", "main"],
        &["rollback", "app"],
        &["release", "app"],
        &["schema"],
        &["completions", "bash"],
        &["man"],
        &["--help"],
        &["frobnicate"],
        &["run", "--"],
        &["render", "--once", "--target", "nope"],
        &["check", "-c", "/no/such/file"],
    ] {
        call(agent, format, args, seen);
    }
}

fn first_rotation(agent: &mut Agent, echo: &Echo, seen: &mut Seen) {
    agent.wait_state("app", "healthy");
    settled(agent);
    let requests = echo.requests();
    for name in ["main", "header", "body", "url"].iter().filter(|name| **name != "main") {
        let value = world::variable(&format!("CANARY_{}", name.to_uppercase()));
        assert!(requests.contains(&value), "{name} reached the upstream: {requests}");
    }
    assert!(requests.contains("Bearer sk-ant-good-"), "the secret reached the upstream");
    let log = agent.log();
    for expected in ["TRACE", "***", "refused the new contents", "verify refused the new value", "not base64", "bad-0"]
    {
        let found = log.contains(expected) || log.contains(&expected.to_lowercase());
        assert!(found, "the log does not hold {expected}");
    }
    seen.add("/metrics", admin(agent, "/metrics"));
    seen.add("/status", admin(agent, "/status"));
    seen.add("/ready", admin(agent, "/ready"));
    seen.add("/live", admin(agent, "/live"));
}

/// Waits until every target's rotation ended one way or the other.
fn settled(agent: &mut Agent) {
    agent.wait("no target rotates", |a| {
        let status = a.status()?;
        let targets = status["targets"].as_array()?;
        let busy = |t: &serde_json::Value| t["state"] == "rotating" && t["reason"].is_null();
        (!targets.is_empty() && !targets.iter().any(busy)).then_some(())
    });
}

fn asked(agent: &Agent, format: &str, seen: &mut Seen) {
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["history"],
        &["history", "--json"],
        &["refresh"],
        &["refresh", "--json", "main", "blob"],
        &["refresh", "nope"],
        &["release", "app"],
        &["rollback", "app", "--to", "99"],
        &["rollback", "nope"],
        &["run"],
        &["render", "--once"],
        &["check"],
    ] {
        call(agent, format, args, seen);
    }
    watched(agent, format, seen);
    for question in
        ["{\"status\":{}}", "{\"refresh\":{\"secrets\":[\"main\"]}}", "{\"history\":{}}", "nonsense", "{\"x\":1}"]
    {
        use std::io::{Read, Write};
        let socket = agent.dir.join("state/control.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        stream.write_all(format!("{question}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(!answer.is_empty());
        seen.add(format!("control socket, asked {question}"), answer);
    }
}

/// `status --watch`, until it has shown the targets.
fn watched(agent: &Agent, format: &str, seen: &mut Seen) {
    use std::io::Read;
    let mut command = agent.command(&["--log-level", "trace", "--log-format", format, "status", "--watch"]);
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&text).contains("unread-10") {
        let n = out.read(&mut buffer).unwrap();
        assert!(n > 0, "{}", String::from_utf8_lossy(&text));
        text.extend_from_slice(&buffer[..n]);
    }
    child.kill().unwrap();
    let rest = child.wait_with_output().unwrap();
    seen.add("status --watch stdout", text);
    seen.add("status --watch stderr", rest.stderr);
}

fn committed(agent: &Agent) -> usize {
    outcomes(agent, "app").iter().filter(|outcome| *outcome == "committed").count()
}

fn outcomes(agent: &Agent, target: &str) -> Vec<String> {
    let (_, out, _) = agent.call(&["history", "--target", target, "--json"]);
    let history: Vec<serde_json::Value> = serde_json::from_str(&out).unwrap_or_default();
    history.iter().filter_map(|entry| Some(entry["outcome"].as_str()?.to_owned())).collect()
}

fn a_bad_round(agent: &mut Agent, format: &str, seen: &mut Seen) {
    fs::write(agent.dir.join("refuse-reload"), "").unwrap();
    agent.secrets(&world::secrets(2, true).to_string());
    agent.wait("app is rolled back", |a| (outcomes(a, "app").last()? == "rolled_back").then_some(()));
    agent.wait("reloads is rolled back or degraded", |a| {
        a.target("reloads").filter(|t| t["reason"].is_string()).map(drop)
    });
    settled(agent);
    fs::remove_file(agent.dir.join("refuse-reload")).unwrap();
    for args in [&["status"][..], &["status", "--json"], &["history"], &["history", "--json"]] {
        call(agent, format, args, seen);
    }
    seen.add("/status after a bad round", admin(agent, "/status"));
}

fn half_written_stores(agent: &mut Agent, format: &str, seen: &mut Seen) {
    let whole = world::secrets(3, false);
    let (text, main) = (whole.to_string(), &whole["main"]);
    let (long, short) = (main["long"].as_str().unwrap(), main["short"].as_str().unwrap());
    let mut texts: Vec<String> = vec![
        text[..text.len() / 2].to_owned(),
        format!("main:\n  long: {long}\n  {short}: 1\n  {short}: 2\n"),
        format!("main:\n  long: {long}\n {short} : [\n"),
        format!("main:\n  long: !!{short} {long}\n"),
        format!("main:\n  long: !!int {long}\n"),
        format!("main:\n  long: *{short}\n"),
        format!("{long}\n"),
        format!("? [{long}]\n: 1\n"),
        format!("main: {long}\n---\nmain: {short}\n"),
        format!("main: \"{long}\n"),
        format!("main:\n\tlong: {long}\n"),
        format!("{long}: 1\n"),
        format!("main: [{long}]\n"),
    ];
    texts.push(String::new());
    for text in texts {
        agent.secrets(&text);
        let (_, out, _) = call(agent, format, &["refresh", "--json"], seen);
        assert!(out.contains("error"), "{text}: {out}");
    }
    for args in [&["status"][..], &["check"], &["render", "--once", "--dry-run"]] {
        call(agent, format, args, seen);
    }
    seen.add("/status on a broken store", admin(agent, "/status"));
    seen.add("/metrics on a broken store", admin(agent, "/metrics"));
}

fn a_good_round(agent: &mut Agent, format: &str, seen: &mut Seen) {
    let before = committed(agent);
    agent.secrets(&world::secrets(3, false).to_string());
    call(agent, format, &["refresh"], seen);
    agent.wait("the third round is committed", |a| (committed(a) > before).then_some(()));
    agent.wait_state("app", "healthy");
    agent.wait("reloads takes it up", |a| (a.target("reloads")?["state"] == "healthy").then_some(()));
}

fn back_and_forth(agent: &mut Agent, format: &str, seen: &mut Seen) {
    fs::write(agent.dir.join("refuse-reload"), "").unwrap();
    call(agent, format, &["rollback", "app"], seen);
    call(agent, format, &["rollback", "reloads"], seen);
    agent.wait("app is held", |a| a.target("app").filter(|t| t["held"] == true && t["state"] != "rotating").map(drop));
    agent.wait("reloads fails", |a| a.target("reloads").filter(|t| t["reason"].is_string()).map(drop));
    fs::remove_file(agent.dir.join("refuse-reload")).unwrap();
    call(agent, format, &["history"], seen);
    call(agent, format, &["release", "app"], seen);
    call(agent, format, &["release", "reloads"], seen);
    for name in ["bad-0", "env-0-3", "refused"] {
        call(agent, format, &["release", name], seen);
    }
    agent.wait("app is released", |a| {
        a.target("app").filter(|t| t["held"] == false && t["state"] == "healthy").map(drop)
    });
}

/// A SIGHUP over a config that is no longer sound, right beside the values of variables.
fn faulty_config(agent: &mut Agent, format: &str, seen: &mut Seen) {
    let sound = agent.read("agent.yaml");
    let mut faulty = 0;
    for text in faults::configs(&sound) {
        fs::write(agent.dir.join("agent.yaml"), &text).unwrap();
        let (code, out, err) = call(agent, format, &["check", "--offline"], seen);
        assert!([0, 65, 66, 78].contains(&code), "{code}: {out}{err}");
        faulty += usize::from(code != 0);
        if code != 0 && faulty % 8 == 0 {
            let before = agent.read("audit.jsonl").matches("config_reloaded").count();
            agent.signal(Signal::SIGHUP);
            agent.wait("the config is refused", |a| {
                (a.read("audit.jsonl").matches("config_reloaded").count() > before).then_some(())
            });
            call(agent, format, &["status"], seen);
        }
    }
    assert!(faulty > 80, "{faulty}");
    call(agent, format, &["run"], seen);
    call(agent, format, &["render", "--once"], seen);
    fs::write(agent.dir.join("agent.yaml"), sound).unwrap();
    agent.signal(Signal::SIGHUP);
    agent.wait("the config is sound again", |a| a.status()?["config_error"].is_null().then_some(()));
}

/// Lets the child crash until its trampoline was seen at work.
fn trampoline(agent: &mut Agent, watcher: &Watcher) {
    let mut last = 0;
    // It lives for a moment, and the agent waits longer before each next one: it takes as many as it takes.
    agent.wait_within(3 * agent::DEADLINE, "the trampoline is seen at work", |a| {
        for child in procs::children(a.pid()) {
            let sleeps = procs::program(child).is_some_and(|p| p.arguments().starts_with("sleep 100000"));
            if sleeps && child != last {
                last = child;
                let _gone = nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), Signal::SIGSEGV);
            }
        }
        watcher.saw("__spawn app").then_some(())
    });
    agent.wait_state("app", "healthy");
}

fn processes(agent: &Agent, watcher: &Watcher, canaries: &Canaries, net: &Net, seen: &mut Seen) {
    let own = procs::program(agent.pid()).unwrap();
    seen.add("the agent's cmdline", &own.cmdline);
    for name in world::VARIABLES {
        assert_eq!(own.variable(name), Some(world::variable(name).into_bytes()), "the agent was started with {name}");
    }
    let stored = canaries.only("secret").net();
    assert!(stored.whole(&own.environ).is_empty(), "no secret of a store is in the agent's environment");
    for name in ["talkative-check", "good-check", "talkative-probe", "talkative-reload", "__spawn app", "sleep 100000"]
    {
        assert!(watcher.saw(name), "{name} was never seen");
    }
    for program in watcher.seen() {
        let name = program.arguments();
        seen.add(format!("cmdline of {name}"), &program.cmdline);
        for secret in ["CANARY_TOKEN", "VAULT_TOKEN"] {
            assert_eq!(program.variable(secret), None, "{name} has {secret}");
        }
        let supervised = name.starts_with("sleep 100000");
        let trampoline = name.contains("__spawn");
        for (variable, value) in program.variables() {
            let crashing = name.starts_with("sh -c exit 3") && variable == "A";
            let declared = crashing || supervised && ["LONG", "AWKWARD", "PEM"].contains(&variable.as_str());
            let inherited = !trampoline && (world::VARIABLES.contains(&variable.as_str()) || variable == "DECLARED");
            if !declared && !inherited {
                assert!(net.find(&value).is_empty(), "{variable} of {name}");
            }
        }
        if supervised {
            let long = program.variable("LONG").unwrap();
            assert!(long.starts_with(b"sk-ant-"), "it has what `env` gives it");
            assert_eq!(
                program.variable("DECLARED"),
                Some(format!("fixed {}", world::variable("CANARY_ENV")).into_bytes())
            );
        }
        if trampoline {
            assert!(
                program.variables().all(|(name, _)| name.starts_with("LEASEHOLD_")),
                "the trampoline inherits nothing"
            );
        }
    }
}

/// What was published before is not known to a new process: its values have to stay unseen all the same.
fn after_a_restart(agent: &mut Agent, format: &str, seen: &mut Seen) {
    agent.secrets(&world::secrets(1, true).to_string());
    fs::write(agent.dir.join("secrets.yaml"), "half: [").unwrap();
    fs::remove_file(agent.dir.join("state/overlap.json")).unwrap();
    fs::write(agent.dir.join("refuse-reload"), "").unwrap();
    agent.start_with(&["--log-level", "trace", "--log-format", format, "run"]);
    agent.wait("reloads is there", |a| a.target("reloads"));
    let (code, _, err) = call(agent, format, &["rollback", "reloads"], seen);
    assert_eq!(code, 75, "{err}");
    agent.wait("the reload of the old generation fails", |a| {
        a.target("reloads").filter(|t| t["reason"].as_str().is_some_and(|r| r.contains("reload command"))).map(drop)
    });
    for args in [&["status"][..], &["status", "--json"], &["history"], &["history", "--json"]] {
        call(agent, format, args, seen);
    }
    seen.add("/status after a restart", admin(agent, "/status"));
    agent.stop();
    fs::remove_file(agent.dir.join("refuse-reload")).unwrap();
}

/// `agent render` that stays, and `agent run -- CMD`.
fn only_files(agent: &mut Agent, format: &str, seen: &mut Seen) {
    agent.secrets(&world::secrets(1, false).to_string());
    agent.start_with(&["--log-level", "trace", "--log-format", format, "render"]);
    agent.wait("the files are those of the first round", |a| {
        a.read("out/all.yaml").contains("zQ7xv91-nested-2").then_some(())
    });
    agent.stop();
    let command = ["run", "-c", "one.yaml", "--", "sh", "-c", "exit 3"];
    let file = serde_json::json!({"path": "out/one", "inline": "{{ secrets.main.long }} ${CANARY_INLINE}"});
    let one = serde_json::json!({
        "state_dir": "state", "stores": {"local": {"type": "file", "path": "secrets.yaml"}},
        "secrets": {"main": {"store": "local"}},
        "targets": {"one": {"files": [file]}}});
    fs::write(agent.dir.join("one.yaml"), one.to_string()).unwrap();
    let (code, _, err) = call(agent, format, &command, seen);
    assert_eq!(code, 3, "{err}");
}

fn files(agent: &Agent, canaries: &Canaries, seen: &mut Seen) {
    let state = agent.dir.join("state");
    seen.add("audit", agent.read("audit.jsonl"));
    seen.add_files(&state, &|path| !holds_values(path));
    for name in ["journal", "history.jsonl", "manifest.json"] {
        assert!(seen.names().any(|seen| seen.ends_with(name)), "{name}: {:?}", seen.names().collect::<Vec<_>>());
    }
    assert!(agent.read("audit.jsonl").contains("rotation_ended"));
    let mut by_design = Seen::default();
    by_design.add_files(&state, &holds_values);
    by_design.names().for_each(|path| assert_private(Path::new(path), &state));
    let net = canaries.net();
    for name in ["/files/", "env.json", "health.json"] {
        let mut part = Seen::default();
        part.add("part", by_design.text(name));
        assert!(!part.leaks(&net).is_empty(), "the search finds the values that {name} holds by design");
    }
}

#[test]
fn the_search_finds_a_canary_in_every_form() {
    let (_, canaries) = world::build(&Echo::start(), 1);
    let net = canaries.net();
    let long = world::secrets(1, false)["main"]["long"].as_str().unwrap().to_owned();
    let awkward = world::secrets(1, false)["main"]["awkward"].as_str().unwrap().to_owned();
    let encoded = |text: &str| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, text);
    for planted in [
        long.clone(),
        long.to_uppercase(),
        long.chars().rev().collect(),
        long[..20].to_owned(),
        encoded(&format!("user:{long}")),
        encoded(&format!("u{long}")),
        serde_json::to_string(&awkward).unwrap(),
        format!("{awkward:?}"),
        "%227%20".to_owned()
            + &awkward.bytes().map(|b| format!("%{b:02X}")).collect::<String>().replace("%7A%51%37%78%76%39", "zQ7xv9"),
        long.bytes().map(|b| format!("{b:02x}")).collect(),
        "7741936528411".to_owned(),
        world::variable("CANARY_HEADER"),
    ] {
        let mut seen = Seen::default();
        seen.add("a log", format!("2026-01-01 INFO something is {planted} here"));
        assert!(!seen.leaks(&net).is_empty(), "{planted}");
    }
    let mut seen = Seen::default();
    seen.add("a log", "2026-01-01 INFO something is *** here, CANARY_TOKEN, secrets.main.long");
    seen.assert_clean(&net);
}
