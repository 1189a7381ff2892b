//! `agent status`.

use std::io::IsTerminal;
use std::time::Duration;

use super::output::{Failure, colour, complain, print, print_json};
use super::table::{Cell, Paint, Table, cell, painted, remarks};
use super::words::{duration, maybe_relative, moment, relative};
use super::{Context, history};
use crate::control::{Client, ControlError};
use crate::telemetry::view::{SecretView, StatusView, StoreView, TargetView};

/// Pause between two looks of `--watch`.
const PAUSE: Duration = Duration::from_secs(1);

/// Show what runs now
///
/// Targets, generations, secrets, and what is due next. Where no agent runs, it says so (exit code 69) and shows how each
/// target was left.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Refresh in place until interrupted; where output is no terminal, print again and again
    #[arg(long)]
    watch: bool,
}

pub(super) fn run(arguments: &Status, context: &Context) -> Result<u8, Failure> {
    let state_dir = context.state_dir()?;
    let ask = || Client::connect(&state_dir).and_then(Client::status);
    if arguments.watch {
        return watch(arguments.json, ask);
    }
    match ask() {
        Ok(status) if arguments.json => print_json(&status)?,
        Ok(status) => print(&text(&status, colour()))?,
        Err(error) => {
            if matches!(error, ControlError::NoAgent { .. }) && !arguments.json {
                print(&history::left_behind(&state_dir, colour()))?;
            }
            return Err(error.into());
        }
    }
    Ok(0)
}

fn watch(json: bool, ask: impl Fn() -> Result<StatusView, ControlError>) -> Result<u8, Failure> {
    let in_place = !json && std::io::stdout().is_terminal();
    let mut first = true;
    loop {
        let answer = ask();
        match answer {
            Ok(status) if json => print(&(serde_json::to_string(&status).unwrap_or_default() + "\n"))?,
            Ok(status) if in_place => print(&over_the_last(&text(&status, colour()), first))?,
            Ok(status) => print(&(text(&status, false) + "\n"))?,
            // Before a terminal somebody waits for the agent to come back.
            Err(error) if in_place => print(&over_the_last(&format!("{error}\n"), first))?,
            Err(error) if first => return Err(error.into()),
            Err(error) => complain(&error.to_string()),
        }
        first = false;
        std::thread::sleep(PAUSE);
    }
}

/// The text where the last one stood (ECMA-48: CUP, EL, ED); the first one clears the screen.
fn over_the_last(text: &str, first: bool) -> String {
    let start = if first { "\x1b[2J\x1b[H" } else { "\x1b[H" };
    format!("{start}{}\x1b[J", text.replace('\n', "\x1b[K\n"))
}

/// The whole picture for people.
fn text(status: &StatusView, colour: bool) -> String {
    let up = duration(status.now.duration_since(status.started_at));
    let mut out = format!("agent {}, up {up}, {}\n", status.version, moment(status.now));
    let mut targets = Table::new(&["TARGET", "STATE", "GENERATION", "LAST ROTATION"]);
    for target in &status.targets {
        targets.row(target_row(target, status), remarks(target.reason.as_deref(), Paint::Yellow));
    }
    let mut secrets = Table::new(&["SECRET", "STORE", "VERSION", "CHANGED", "READ", "NEXT", "NOTES"]);
    for secret in &status.secrets {
        secrets.row(secret_row(secret, status), remarks(secret.error.as_deref(), Paint::Red));
    }
    let mut stores = Table::new(&["STORE", "CALLS/H", "$/MONTH", "CALLS SINCE THE START"]);
    for store in &status.stores {
        stores.row(store_row(store), store_remarks(store));
    }
    if let Some(error) = &status.config_error {
        out.push_str(&format!("config or template on disk is not in force: {error}\n"));
    }
    for table in
        [targets.text(colour), secrets.text(colour), stores.text(colour)].iter().filter(|text| !text.is_empty())
    {
        out += "\n";
        out += table;
    }
    out
}

fn target_row(target: &TargetView, status: &StatusView) -> Vec<Cell> {
    let mut words = vec![target.state.as_str()];
    let also = [(target.held, "held"), (target.stale, "stale"), (target.degraded, "degraded")];
    words.extend(also.iter().filter(|(on, word)| *on && *word != target.state).map(|(_, word)| *word));
    let paint = match target.state.as_str() {
        _ if target.degraded => Paint::Red,
        "degraded" => Paint::Red,
        "healthy" if words.len() == 1 => Paint::Green,
        _ => Paint::Yellow,
    };
    let generation = target.generation.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let last = target.last_rotation.as_ref();
    let last = last.map_or_else(
        || cell("-"),
        |last| painted(format!("{} {}", last.outcome, relative(last.ended_at, status.now)), outcome(&last.outcome)),
    );
    vec![cell(&target.name), painted(words.join(", "), paint), cell(generation), last]
}

/// The colour of an outcome.
pub(super) fn outcome(word: &str) -> Paint {
    match word {
        "committed" => Paint::None,
        "rolled_back" | "quarantined" => Paint::Red,
        _ => Paint::Yellow,
    }
}

fn secret_row(secret: &SecretView, status: &StatusView) -> Vec<Cell> {
    let now = status.now;
    let mut notes = Vec::new();
    let mut paint = Paint::None;
    if let Some(at) = secret.expires_at {
        let what = if secret.leased { "lease ends" } else { "expires" };
        let what = if at <= now { if secret.leased { "lease ended" } else { "expired" } } else { what };
        notes.push(format!("{what} {}", relative(at, now)));
        if at <= now {
            paint = Paint::Red;
        }
    }
    if let Some(due) = secret.due_at().filter(|due| *due <= now) {
        notes.push(format!("overdue by {}", relative(due, now).trim_end_matches(" ago")));
        paint = Paint::Red;
    }
    if let Some(until) = secret.overlap_until.filter(|until| *until > now) {
        notes.push(format!("previous ends {}", relative(until, now)));
    }
    if secret.error.is_some() {
        notes.push(match secret.failing_since {
            Some(since) => format!("cannot be read for {}", duration(now.duration_since(since))),
            None => "cannot be read".to_owned(),
        });
        paint = Paint::Red;
    }
    vec![
        cell(&secret.name),
        cell(&secret.store),
        cell(secret.version.as_deref().unwrap_or("-")),
        cell(maybe_relative(secret.changed_at, now)),
        cell(maybe_relative(secret.read_at, now)),
        cell(maybe_relative(secret.next_read_at, now)),
        painted(notes.join(", "), paint),
    ]
}

fn store_row(store: &StoreView) -> Vec<Cell> {
    let calls: Vec<String> = store.calls.iter().map(|(request, count)| format!("{request} {count}")).collect();
    vec![
        cell(&store.name),
        cell(format!("{:.0}", store.calls_per_hour)),
        cell(format!("{:.2}", store.usd_per_month)),
        cell(if calls.is_empty() { "-".to_owned() } else { calls.join(", ") }),
    ]
}

fn store_remarks(store: &StoreView) -> Vec<Cell> {
    let identity = store.identity.as_ref().map(|identity| cell(format!("acting as {identity}")));
    std::iter::once(cell(&store.how)).chain(identity).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;
    use crate::telemetry::view::LastRotation;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn target(name: &str, state: &str) -> TargetView {
        TargetView {
            name: name.into(),
            state: state.into(),
            generation: Some(3),
            held: false,
            stale: false,
            degraded: false,
            last_rotation: Some(LastRotation { outcome: "committed".into(), ended_at: at(-180) }),
            last_success_at: Some(at(-180)),
            reason: None,
            certificates: BTreeMap::new(),
        }
    }

    fn secret(name: &str) -> SecretView {
        SecretView {
            name: name.into(),
            store: "vault".into(),
            path: "p".into(),
            version: Some("7".into()),
            changed_at: Some(at(-172_800)),
            read_at: Some(at(-12)),
            next_read_at: Some(at(18)),
            expires_at: None,
            leased: false,
            overlap_until: None,
            max_age_seconds: None,
            error: None,
            failing_since: None,
        }
    }

    #[test]
    fn the_picture_for_people() {
        let broken = TargetView {
            generation: None,
            last_rotation: None,
            held: true,
            reason: Some("the probe answered 503\nwith \u{1b}[2J".into()),
            ..target("gateway", "degraded")
        };
        let status = StatusView {
            config_error: None,
            version: "0.1.0".into(),
            now: at(0),
            started_at: at(-7_500),
            targets: vec![target("app", "healthy"), broken],
            secrets: vec![
                SecretView { max_age_seconds: Some(86_400), ..secret("anthropic") },
                SecretView { leased: true, expires_at: Some(at(600)), overlap_until: Some(at(7_200)), ..secret("db") },
                SecretView {
                    version: None,
                    error: Some("permission denied".into()),
                    failing_since: Some(at(-300)),
                    ..secret("redis")
                },
            ],
            stores: vec![
                StoreView {
                    name: "bedrock".into(),
                    how: "1,000 secrets in batches of 20 every 60 s".into(),
                    calls_per_hour: 3_300.4,
                    usd_per_month: 12.046,
                    calls: BTreeMap::from([("BatchGetSecretValue".into(), 150), ("DescribeSecret".into(), 15)]),
                    identity: Some("arn:aws:sts::123456789012:assumed-role/app/i-0".into()),
                },
                StoreView {
                    name: "eu".into(),
                    how: "one by one".into(),
                    calls_per_hour: 0.4,
                    usd_per_month: 0.001,
                    calls: BTreeMap::new(),
                    identity: None,
                },
            ],
        };
        insta::assert_snapshot!(text(&status, false));
        assert!(text(&status, true).contains("\x1b[32mhealthy\x1b[0m"));
        assert!(!text(&status, true).contains("\x1b[2J"), "no name or reason steers the terminal");
    }
}
