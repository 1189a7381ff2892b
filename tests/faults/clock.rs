//! The wall clock is set while the agent runs. What it sees of the clock goes through a library that adds what a file says.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::Timestamp;

use crate::agent::Agent;
use crate::kit::{config, key, skip};

const SHIFT: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
int clock_gettime(clockid_t id, struct timespec *ts) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, ts);
    if (result != 0 || id != CLOCK_REALTIME) return result;
    char text[32] = {0};
    int fd = open(getenv("SHIFT_FILE"), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return result;
    if (read(fd, text, sizeof text - 1) > 0) ts->tv_sec += atol(text);
    close(fd);
    return result;
}
"#;

/// None where there is no C compiler.
fn library(dir: &Path) -> Option<PathBuf> {
    fs::write(dir.join("shift.c"), SHIFT).unwrap();
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-o", "shift.so", "shift.c", "-ldl"]).current_dir(dir);
    if cc.output().is_ok_and(|output| output.status.success()) {
        return Some(dir.join("shift.so"));
    }
    skip("a stepped clock: there is no C compiler to build the library that steps it");
    None
}

const DAY: i64 = 86_400;

fn shift(agent: &Agent, seconds: i64) {
    fs::write(agent.dir.join("shift.next"), seconds.to_string()).unwrap();
    fs::rename(agent.dir.join("shift.next"), agent.dir.join("shift")).unwrap();
}

/// Days between the agent's clock and the real one.
fn days(agent: &Agent) -> i64 {
    let now: Timestamp = agent.status().unwrap()["now"].as_str().unwrap().parse().unwrap();
    (now.as_second() - Timestamp::now().as_second() + DAY / 2).div_euclid(DAY)
}

#[test]
fn a_clock_that_is_set_neither_stops_rotations_nor_moves_an_overlap() {
    let inline =
        "'{{ secrets.provider.key }}{% if previous.provider is defined %}<{{ previous.provider.key }}{% endif %}'";
    let target =
        format!("  app: {{settle: {{min: 20ms, max: 200ms}}, files: [{{path: out/conf, inline: {inline}}}]}}\n");
    let text = config(&target).replace("{store: local}", "{store: local, overlap: 1h}");
    let mut agent = Agent::new(&text, &key("key-of-1"));
    let Some(library) = library(&agent.dir) else { return };
    shift(&agent, 0);
    agent.env = vec![
        ("LD_PRELOAD".into(), library.display().to_string()),
        ("SHIFT_FILE".into(), agent.dir.join("shift").display().to_string()),
    ];
    agent.start();
    agent.wait_outcomes(&["committed"]);
    agent.secrets(&key("key-of-2"));
    agent.wait_file("out/conf", "key-of-2<key-of-1");

    // Two days ahead: the hour has not passed.
    shift(&agent, 2 * DAY);
    assert_eq!(days(&agent), 2, "the agent sees the other clock");
    agent.secrets(&key("key-of-3"));
    agent.wait_file("out/conf", "key-of-3<key-of-2");

    // And far back: nothing waits for the clock to come round again.
    shift(&agent, -30 * DAY);
    assert_eq!(days(&agent), -30);
    agent.secrets(&key("key-of-4"));
    agent.wait_file("out/conf", "key-of-4<key-of-3");
    agent.wait_outcomes(&["committed"; 4]);
    let generations: Vec<_> = agent.history().iter().map(|e| e["generation"].as_u64().unwrap()).collect();
    assert_eq!(generations, [1, 2, 3, 4], "history is in the order in which it happened");

    // A restart while the clock is wrong: all goes on.
    assert_eq!(agent.stop().code(), Some(0));
    agent.start();
    agent.wait_state("app", "healthy");
    shift(&agent, 0);
    agent.secrets(&key("key-of-5"));
    agent.wait_file("out/conf", "key-of-5<key-of-4");
    agent.wait_state("app", "healthy");
    let (code, out, _) = agent.call(&["status"]);
    assert_eq!(code, 0, "{out}");
}
