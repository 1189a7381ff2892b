//! A thousand secrets of AWS Secrets Manager on one agent: what it asks for, and how much memory it takes.
//!
//! LEASEHOLD_AGENT names the binary to measure (scripts/footprint names the release's); by default that of the tests.

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

#[path = "support/agent.rs"]
mod agent;
#[path = "support/aws/mod.rs"]
mod aws;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::time::Duration;

use agent::Agent;
use aws::scripted::Scripted;
use serde_json::json;

const SECRETS: usize = 1000;
const BUDGET: u64 = 25_000_000;
/// Requests an interval.
const CALLS: usize = 55;
const INTERVALS: u32 = 4;
const POLL: Duration = Duration::from_secs(10);

/// Of `/proc/PID/status`, in bytes.
fn memory(pid: u32, what: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

/// Which secrets each target uses.
type Groups<'a> = &'a [(&'a str, Range<usize>)];

fn config(groups: Groups) -> String {
    let mut text = "state_dir: state
stores: {aws: {type: aws-secrets-manager, region: us-west-2}}
secrets:
"
    .to_owned();
    for n in 0..SECRETS {
        writeln!(text, "  s{n}: {{store: aws, id: team/app-{n}, poll: {}s}}", POLL.as_secs()).unwrap();
    }
    text += "targets:\n";
    for (name, _) in groups {
        writeln!(text, "  {name}:\n    files: [{{path: out/{name}, template: {name}.tera}}]").unwrap();
        writeln!(text, "    reload: {{type: none}}\n    health: {{type: none}}").unwrap();
    }
    text
}

/// The server, and the agent with a template for each of the groups and targets for none.
fn site(groups: Groups) -> (Scripted, Agent) {
    let server = Scripted::start();
    for n in 0..SECRETS {
        server.put(&format!("team/app-{n}"), &json!({"username": "app", "password": format!("a password of {n:032}")}));
    }
    let agent = Agent::new("", "{}");
    for (name, secrets) in groups {
        let lines = secrets.clone().map(|n| format!("s{n}={{{{ secrets.s{n}.password }}}}\n"));
        fs::write(agent.dir.join(format!("{name}.tera")), lines.collect::<String>()).unwrap();
    }
    (server, agent)
}

fn start(server: &Scripted, agent: &mut Agent) -> u32 {
    let binary = std::env::var("LEASEHOLD_AGENT").unwrap_or_else(|_| env!("CARGO_BIN_EXE_agent").to_owned());
    let log = fs::File::create(agent.dir.join("log")).unwrap();
    let mut command = Command::new(binary);
    command.current_dir(&agent.dir).args(["run"]).env("AGENT_CONFIG", agent.dir.join("agent.yaml"));
    command.env("AWS_ENDPOINT_URL", server.address()).env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE").env("AWS_SECRET_ACCESS_KEY", "key").env("HOME", &agent.dir);
    command.env_remove("NOTIFY_SOCKET").stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let child = command.spawn().unwrap();
    let pid = child.id();
    agent.child = Some(child);
    pid
}

/// What is asked in some intervals; in none of them more than it may be, and every secret is read.
#[track_caller]
fn within_budget(server: &Scripted, agent: &mut Agent) {
    server.forget();
    // A poll is up to a tenth late; which of them is the first to be later than this is not known.
    let asked = agent.wait_within(POLL * (INTERVALS + 3) + agent::DEADLINE, "some intervals are over", |_| {
        let asked = server.asked();
        (asked.last()?.at - asked.first()?.at > POLL * INTERVALS).then_some(asked)
    });
    let counts = server.counts();
    println!("{} calls in {INTERVALS} intervals: {counts:?}", asked.len());
    // The first round and the last may be cut.
    let rounds: Vec<_> = asked.chunk_by(|a, b| b.at - a.at < POLL / 4).collect();
    let whole = &rounds[1..rounds.len() - 1];
    assert!(whole.len() + 1 >= usize::try_from(INTERVALS).unwrap() - 1, "{} rounds", rounds.len());
    for (round, next) in whole.iter().zip(&rounds[2..]) {
        let read: BTreeSet<&String> = round.iter().flat_map(|asked| &asked.secrets).collect();
        assert_eq!(read.len(), SECRETS, "every secret is read in every round");
        assert!(round.len() <= CALLS, "{} calls in a round: {counts:?}", round.len());
        let pause = next[0].at - round[0].at;
        assert!(pause > POLL * 3 / 4, "the next round came after {pause:?}");
    }
}

#[test]
fn a_thousand_secrets_of_targets_that_came_one_after_another_cost_55_calls_an_interval() {
    let groups: Groups = &[("a", 0..310), ("b", 310..655), ("c", 655..SECRETS)];
    let (server, mut agent) = site(groups);
    fs::write(agent.dir.join("agent.yaml"), config(&groups[..1])).unwrap();
    start(&server, &mut agent);
    for (n, (name, secrets)) in groups.iter().enumerate() {
        if n > 0 {
            // Not together with the poll of those before.
            let rounds = server.count("BatchGetSecretValue") + 2;
            agent.wait("the others are polled", |_| (server.count("BatchGetSecretValue") >= rounds).then_some(()));
            fs::write(agent.dir.join("agent.yaml"), config(&groups[..=n])).unwrap();
            agent.signal(nix::sys::signal::Signal::SIGHUP);
        }
        let (rendered, last) = (agent.dir.join("out").join(name), format!("of {:032}\n", secrets.end - 1));
        agent.wait("its target is rendered", |_| fs::read_to_string(&rendered).ok()?.ends_with(&last).then_some(()));
    }
    let before = server.count("BatchGetSecretValue");
    agent.wait("an interval is over", |_| (server.count("BatchGetSecretValue") >= before + 50).then_some(()));
    within_budget(&server, &mut agent);
}

#[test]
fn a_thousand_secrets_fit_in_25_megabytes_and_55_calls_an_interval() {
    let groups: Groups = &[("app", 0..SECRETS)];
    let (server, mut agent) = site(groups);
    fs::write(agent.dir.join("agent.yaml"), config(groups)).unwrap();
    let pid = start(&server, &mut agent);
    let rendered = agent.dir.join("out/app");
    agent.wait("all are rendered", |_| fs::read_to_string(&rendered).ok());
    // The start is counted apart: some of it may be read anew at the first poll.
    agent.wait("the first interval is over", |_| (server.count("BatchGetSecretValue") >= 100).then_some(()));
    within_budget(&server, &mut agent);
    let (all, own) = (memory(pid, "VmRSS"), memory(pid, "RssAnon"));
    let rendered = fs::read_to_string(rendered).unwrap();
    assert_eq!(rendered.lines().count(), SECRETS);
    assert!(rendered.ends_with(&format!("s999=a password of {:032}\n", 999)), "all were rendered");
    println!("RSS with {SECRETS} secrets of AWS: {all} bytes ({own} without the binary's own pages)");
    if std::env::var("LEASEHOLD_AGENT").is_err() {
        eprintln!("NOTE: memory of the tests' binary is printed, not judged: scripts/footprint measures the release's");
        return;
    }
    assert!(all < BUDGET, "{all} bytes, more than {BUDGET}");
}
