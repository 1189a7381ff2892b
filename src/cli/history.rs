//! `agent history`.

use std::path::Path;

use jiff::SignedDuration;

use super::output::{Failure, colour, complain, print, print_json};
use super::table::{Cell, Paint, Table, cell, painted, remarks};
use super::words::{duration, moment, relative};
use super::{Context, status};
use crate::control::{Client, ControlError};
use crate::journal;
use crate::state_dir::StateDir;
use crate::telemetry::view::HistoryEntry;

/// Show the rotations that ended
///
/// The newest last. Where no agent runs, what stands in state_dir is shown.
#[derive(Debug, clap::Args)]
pub struct History {
    /// Print a JSON array, the newest last
    #[arg(long)]
    json: bool,
    /// Only this target
    #[arg(long, value_name = "NAME")]
    target: Option<String>,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
}

pub(super) fn run(arguments: &History, context: &Context) -> Result<u8, Failure> {
    let state_dir = context.state_dir()?;
    let target = arguments.target.as_deref();
    let answer = Client::connect(&state_dir).and_then(|agent| agent.history(target, arguments.limit));
    let entries = match answer {
        Ok(entries) => entries,
        Err(error @ ControlError::NoAgent { .. }) => {
            let entries = offline(&state_dir, target, arguments.limit)?;
            complain(&format!("{error}; this is what stands there"));
            entries
        }
        Err(error) => return Err(error.into()),
    };
    if arguments.json {
        print_json(&entries)?;
    } else {
        print(&text(&entries, colour()))?;
    }
    Ok(0)
}

/// What the state directory itself says, without an agent.
fn offline(state_dir: &Path, target: Option<&str>, count: usize) -> Result<Vec<HistoryEntry>, Failure> {
    let fail = |error: crate::durable::FileError| Failure::new(error.exit_code(), error.to_string());
    let Some(state) = StateDir::open_read_only(state_dir).map_err(fail)? else { return Ok(Vec::new()) };
    let known = targets(&state);
    let names = match target {
        Some(name) if known.iter().any(|known| known == name) => vec![name.to_owned()],
        Some(name) => {
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(Failure::new(64, format!("no target '{name}' has a history here; there are: {known}")));
        }
        None => known,
    };
    let read = names.iter().map(|name| journal::History::<HistoryEntry>::last(&state.target(name), count));
    let histories = read.collect::<Result<_, _>>().map_err(fail)?;
    Ok(HistoryEntry::merge(histories, count))
}

/// The names of the targets that have a folder, in order.
fn targets(state: &StateDir) -> Vec<String> {
    let folder = state.path().join("targets");
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// How each target was left by the last agent; empty where nothing is known or may be read.
pub(super) fn left_behind(state_dir: &Path, colour: bool) -> String {
    let Ok(Some(state)) = StateDir::open_read_only(state_dir) else { return String::new() };
    let now = jiff::Timestamp::now();
    let mut table = Table::new(&["TARGET", "GENERATION", "LAST ROTATION"]);
    for name in targets(&state) {
        let last = journal::History::<HistoryEntry>::last(&state.target(&name), 1).ok().and_then(|mut l| l.pop());
        let (on, ended) = match last {
            Some(last) => {
                let ended = format!("{} {}", last.outcome, relative(last.ended_at, now));
                (last.on.map(|on| on.to_string()), painted(ended, status::outcome(&last.outcome)))
            }
            None => (None, cell("-")),
        };
        table.row(vec![cell(name), cell(on.unwrap_or_else(|| "-".to_owned())), ended], vec![]);
    }
    table.text(colour)
}

fn text(entries: &[HistoryEntry], colour: bool) -> String {
    if entries.is_empty() {
        return "no rotation has ended yet\n".to_owned();
    }
    let mut table = Table::new(&["ENDED", "TARGET", "OUTCOME", "GENERATION", "NOW ON", "TOOK", "CHANGED"]);
    for entry in entries {
        table.row(row(entry), remarks(entry.reason.as_deref(), Paint::Yellow));
    }
    table.text(colour)
}

fn row(entry: &HistoryEntry) -> Vec<Cell> {
    let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    let took = entry.started_at.map(|at| entry.ended_at.duration_since(at)).filter(|took| !took.is_negative());
    let changed: Vec<String> = entry.changed.iter().map(|(name, version)| format!("{name}@{version}")).collect();
    vec![
        cell(moment(entry.ended_at)),
        cell(&entry.target),
        painted(&entry.outcome, status::outcome(&entry.outcome)),
        cell(number(entry.generation)),
        cell(number(entry.on)),
        cell(took.map_or_else(|| "-".to_owned(), |took: SignedDuration| duration(took))),
        cell(changed.join(" ")),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;

    use super::*;

    fn entry(second: i64, target: &str, outcome: &str) -> HistoryEntry {
        let at = |second| Timestamp::from_second(1_700_000_000 + second).unwrap();
        HistoryEntry {
            ended_at: at(second),
            started_at: Some(at(second - 75)),
            target: target.into(),
            outcome: outcome.into(),
            generation: Some(7),
            on: Some(6),
            digest: "d".into(),
            changed: BTreeMap::from([("anthropic".into(), "12".into()), ("db".into(), "3".into())]),
            reason: None,
            steps: BTreeMap::new(),
        }
    }

    #[test]
    fn the_history_for_people() {
        let bad = HistoryEntry {
            reason: Some("the probe answered 503".into()),
            started_at: None,
            ..entry(60, "app", "rolled_back")
        };
        insta::assert_snapshot!(text(&[entry(0, "gateway", "committed"), bad], false));
        assert_eq!(text(&[], false), "no rotation has ended yet\n");
    }

    #[test]
    fn without_an_agent_the_newest_entries_of_all_targets_are_merged_by_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state");
        let state = StateDir::open(&path, None).unwrap();
        for (target, seconds) in [("a", [1, 4]), ("b", [2, 3])] {
            let folder = state.make_target(target).unwrap();
            let mut history = journal::History::<HistoryEntry>::open(&folder).unwrap();
            for second in seconds {
                history.append(&entry(second, target, "committed")).unwrap();
            }
        }
        drop(state);
        let got = offline(&path, None, 3).ok().unwrap();
        assert_eq!(got.iter().map(|e| e.target.as_str()).collect::<Vec<_>>(), ["b", "b", "a"]);
        assert_eq!(offline(&path, Some("a"), 9).ok().unwrap().len(), 2);
        assert_eq!(offline(&path, Some("c"), 9).err().unwrap().exit, 64);
        assert!(left_behind(&path, false).contains("committed"));
        assert!(offline(&dir.path().join("none"), None, 9).ok().unwrap().is_empty());
    }
}
