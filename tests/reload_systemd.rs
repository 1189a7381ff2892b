//! `reload.type: systemd` against a real systemd: the cases run inside a container that the one outer test boots.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test fails by panicking

#[path = "support/nspawn.rs"]
mod nspawn;
#[path = "support/reload.rs"]
mod support;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use leasehold::config::model::{ReloadConfig, SystemdReload, SystemdVerb};
use leasehold::dbus::Bus;
use leasehold::reload::{Context, Reload, ReloadError, ReloadErrorKind, Taken, build};
use support::*;

/// Set inside: nowhere else may these cases touch a system's units.
const INSIDE: &str = "INSIDE_A_THROWAWAY_SYSTEMD";

#[test]
fn every_case_passes_in_a_real_systemd() {
    let executable = std::env::current_exe().unwrap();
    let folder = executable.parent().unwrap();
    let machine = match nspawn::Machine::boot(&[(folder, "/opt/tests")]) {
        Ok(machine) => machine,
        Err(why) => return skip(&why),
    };
    let inside = format!("/opt/tests/{}", executable.file_name().unwrap().to_str().unwrap());
    let run = |arguments: &[&str], before: &[&str]| {
        let mut argv = before.to_vec();
        argv.push(&inside);
        let mut command = machine.command(argv[0]);
        command.args(&argv[1..]).args(["--ignored"]).args(arguments).env(INSIDE, "1");
        let output = command.env("TMPDIR", "/tmp").output().unwrap();
        println!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let cases = String::from_utf8_lossy(&output.stdout).matches("... ok").count();
        assert!(output.status.success() && cases > 0, "cases failed inside: see above");
        cases
    };
    let cases = run(&["root_", "--test-threads=4"], &[]) + run(&["bus_", "--test-threads=1"], &[]);
    assert_eq!(cases, 13, "every case ran");
    machine.unit("denied.service", &service("ExecReload=true"));
    machine.must(&["systemctl", "start", "denied.service"]);
    run(&["user_"], &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]);
}

fn inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

fn service(lines: &str) -> String {
    format!("[Unit]\nStartLimitBurst=3\nStartLimitIntervalSec=600\n[Service]\nExecStart=/bin/sleep infinity\n{lines}\n")
}

fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn unit(name: &str, content: &str) {
    std::fs::write(format!("/etc/systemd/system/{name}"), content).unwrap();
    systemctl(&["daemon-reload"]);
}

fn state(unit: &str) -> String {
    systemctl(&["is-active", unit])
}

fn main_pid(unit: &str) -> String {
    systemctl(&["show", "--value", "-p", "MainPID", unit])
}

fn reloader_within(unit: &str, verb: SystemdVerb, timeout: Duration, bus: Bus) -> Box<dyn Reload> {
    let config = ReloadConfig::Systemd(SystemdReload { unit: unit.to_owned(), verb, timeout });
    build(&config, &Context { bus, ..context(Path::new("/nonexistent")) }).unwrap()
}

fn reloader(unit: &str, verb: SystemdVerb) -> Box<dyn Reload> {
    reloader_within(unit, verb, LONG, Bus::system())
}

async fn told(unit: &str, verb: SystemdVerb) -> Result<Taken, ReloadError> {
    reloader(unit, verb).apply(NEW_FILES).await
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn root_reload_runs_exec_reload_and_keeps_the_process() {
    if !inside() {
        return;
    }
    unit("good.service", &service("ExecReload=/bin/touch /run/good-reloaded"));
    systemctl(&["start", "good.service"]);
    let pid = main_pid("good.service");
    assert_eq!(told("good.service", SystemdVerb::Reload).await, Ok(Taken::Done));
    assert!(Path::new("/run/good-reloaded").exists());
    for verb in [SystemdVerb::ReloadOrRestart, SystemdVerb::TryReloadOrRestart] {
        assert_eq!(told("good.service", verb).await, Ok(Taken::Done));
    }
    assert_eq!(main_pid("good.service"), pid);
    assert!(reloader("good.service", SystemdVerb::Reload).running().await.unwrap());
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn root_restart_starts_a_new_process() {
    if !inside() {
        return;
    }
    unit("plain.service", &service(""));
    systemctl(&["start", "plain.service"]);
    for verb in [SystemdVerb::Restart, SystemdVerb::TryRestart, SystemdVerb::ReloadOrRestart] {
        systemctl(&["reset-failed", "plain.service"]);
        let pid = main_pid("plain.service");
        assert_eq!(told("plain.service", verb).await, Ok(Taken::Done));
        assert_ne!(main_pid("plain.service"), pid);
    }
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn root_a_failing_reload_says_so_and_the_unit_runs_on() {
    if !inside() {
        return;
    }
    unit("refuses.service", &service("ExecReload=/bin/false"));
    systemctl(&["start", "refuses.service"]);
    let error = told("refuses.service", SystemdVerb::Reload).await.unwrap_err();
    assert_eq!(error.kind, ReloadErrorKind::Failed);
    assert!(error.message.starts_with("reload refuses.service: the job failed, the unit is now active"), "{error}");
    assert!(error.message.ends_with("see `journalctl -u refuses.service`"), "{error}");
    assert_eq!(state("refuses.service"), "active");
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn root_a_unit_that_is_absent_or_masked_is_an_error() {
    if !inside() {
        return;
    }
    let error = told("no-such.service", SystemdVerb::ReloadOrRestart).await.unwrap_err();
    assert_eq!(error.message, "reload-or-restart no-such.service: there is no such unit");
    assert_eq!(error.kind, ReloadErrorKind::Absent);
    assert!(!reloader("no-such.service", SystemdVerb::Reload).running().await.unwrap());
    unit("hidden.service", &service(""));
    std::fs::remove_file("/etc/systemd/system/hidden.service").unwrap();
    systemctl(&["mask", "hidden.service"]);
    let error = told("hidden.service", SystemdVerb::Restart).await.unwrap_err();
    assert!(error.message.contains("is masked"), "{error}");
    assert_eq!(error.kind, ReloadErrorKind::Absent);
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn root_a_unit_without_exec_reload_cannot_be_reloaded() {
    if !inside() {
        return;
    }
    unit("deaf.service", &service(""));
    systemctl(&["start", "deaf.service"]);
    let error = told("deaf.service", SystemdVerb::Reload).await.unwrap_err();
    assert_eq!(
        error.message,
        "reload deaf.service: the unit has no ExecReload=: add one, or use `verb: reload-or-restart`"
    );
    assert_eq!(state("deaf.service"), "active");
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn root_an_inactive_unit_is_not_running_and_not_started() {
    if !inside() {
        return;
    }
    unit("idle.service", &service("ExecReload=/bin/true"));
    let verbs = [
        SystemdVerb::Reload,
        SystemdVerb::Restart,
        SystemdVerb::TryRestart,
        SystemdVerb::ReloadOrRestart,
        SystemdVerb::TryReloadOrRestart,
    ];
    for verb in verbs {
        assert_eq!(told("idle.service", verb).await, Ok(Taken::NotRunning));
        assert_eq!(state("idle.service"), "inactive");
    }
    assert!(!reloader("idle.service", SystemdVerb::Reload).running().await.unwrap());
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn root_a_unit_that_crashed_too_often_is_started_by_a_restart() {
    if !inside() {
        return;
    }
    // Runs only with a good config, as a target whose generation was bad.
    let text = "[Unit]\nStartLimitBurst=2\nStartLimitIntervalSec=600\n[Service]\nRestart=on-failure\nRestartSec=10ms\n\
        ExecStart=/bin/sh -c 'test -e /run/good-config && exec sleep infinity'\n";
    unit("crashes.service", text);
    systemctl(&["start", "crashes.service"]);
    until("it crashed too often", || state("crashes.service") == "failed").await;
    assert_eq!(told("crashes.service", SystemdVerb::TryRestart).await, Ok(Taken::NotRunning));
    assert_eq!(told("crashes.service", SystemdVerb::Reload).await, Ok(Taken::NotRunning));
    assert!(told("crashes.service", SystemdVerb::ReloadOrRestart).await.is_err());
    until("it crashed too often again", || state("crashes.service") == "failed").await;
    std::fs::write("/run/good-config", "").unwrap();
    assert_eq!(told("crashes.service", SystemdVerb::ReloadOrRestart).await, Ok(Taken::Done));
    assert_eq!(state("crashes.service"), "active");
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn root_a_reload_that_kills_the_process_a_moment_later_is_a_failure() {
    if !inside() {
        return;
    }
    unit("dies.service", &service("ExecReload=/bin/sh -c '(sleep 0.05; kill -9 $MAINPID) & true'\nKillMode=process"));
    systemctl(&["start", "dies.service"]);
    let error = told("dies.service", SystemdVerb::Reload).await.unwrap_err();
    assert!(error.message.contains("the job is done, but the unit is now failed"), "{error}");
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn root_a_unit_that_is_still_starting_is_waited_for() {
    if !inside() {
        return;
    }
    let text = "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/sh -c 'until test -e /run/may-start; do sleep 0.05; done'\nExecReload=/bin/true\n";
    unit("slow.service", text);
    systemctl(&["start", "--no-block", "slow.service"]);
    until("it is starting", || state("slow.service") == "activating").await;
    let quick = Duration::from_secs(5);
    let error = reloader_within("slow.service", SystemdVerb::Reload, quick, Bus::system()).apply(NEW_FILES).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind, ReloadErrorKind::TimedOut);
    assert!(error.message.contains("still activating"), "{error}");
    let mut reload = reloader("slow.service", SystemdVerb::Reload);
    let (taken, ()) = tokio::join!(reload.apply(NEW_FILES), async {
        std::fs::write("/run/may-start", "").unwrap();
    });
    assert_eq!(taken, Ok(Taken::Done));
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn root_a_reload_that_takes_too_long_is_timed_out() {
    if !inside() {
        return;
    }
    unit("lame.service", &service("ExecReload=/bin/sleep 60"));
    systemctl(&["start", "lame.service"]);
    let mut reload = reloader_within("lame.service", SystemdVerb::Reload, Duration::from_secs(5), Bus::system());
    let error = reload.apply(NEW_FILES).await.unwrap_err();
    assert_eq!(error.kind, ReloadErrorKind::TimedOut);
    assert_eq!(error.message, "reload lame.service: the job did not end within 5s; it may still run");
    systemctl(&["kill", "--signal=KILL", "lame.service"]);
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn bus_a_restarted_bus_and_a_re_executed_systemd_are_found_again() {
    if !inside() {
        return;
    }
    unit("steady.service", &service("ExecReload=/bin/true"));
    systemctl(&["start", "steady.service"]);
    let mut reload = reloader("steady.service", SystemdVerb::Reload);
    assert_eq!(reload.apply(NEW_FILES).await, Ok(Taken::Done));
    systemctl(&["restart", "dbus.service"]);
    assert_eq!(reload.apply(NEW_FILES).await, Ok(Taken::Done));
    systemctl(&["daemon-reexec"]);
    assert_eq!(reload.apply(NEW_FILES).await, Ok(Taken::Done));
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn bus_a_bus_that_is_lost_while_the_job_runs_does_not_lose_the_job() {
    if !inside() {
        return;
    }
    unit("patient.service", &service("ExecReload=/bin/sh -c 'echo >> /run/patient; sleep 1'"));
    systemctl(&["start", "patient.service"]);
    let mut reload = reloader("patient.service", SystemdVerb::Reload);
    let lose = async {
        until("the reload runs", || Path::new("/run/patient").exists()).await;
        let restart = ["systemctl", "restart", "dbus.service"].map(str::to_owned);
        leasehold::process::run(&restart, LONG, &Default::default()).await.unwrap()
    };
    let (taken, restarted) = tokio::join!(reload.apply(NEW_FILES), lose);
    assert!(restarted.exit.success(), "{}", restarted.stderr);
    assert_eq!(taken, Ok(Taken::Done));
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn bus_without_a_bus_the_error_says_so() {
    if !inside() {
        return;
    }
    systemctl(&["stop", "dbus.socket", "dbus.service"]);
    let quick = Duration::from_millis(700);
    let error = reloader_within("steady.service", SystemdVerb::Reload, quick, Bus::system()).apply(NEW_FILES).await;
    systemctl(&["start", "dbus.socket", "dbus.service"]);
    let error = error.unwrap_err();
    assert_eq!(error.kind, ReloadErrorKind::TimedOut);
    assert!(error.message.contains("systemd cannot be reached over D-Bus"), "{error}");
}

#[tokio::test]
#[ignore = "runs inside the container"]
async fn user_without_a_polkit_rule_is_denied_and_told_what_is_missing() {
    if !inside() {
        return;
    }
    assert!(reloader("denied.service", SystemdVerb::Reload).running().await.unwrap());
    for verb in [SystemdVerb::Reload, SystemdVerb::Restart] {
        let error = told("denied.service", verb).await.unwrap_err();
        assert_eq!(error.kind, ReloadErrorKind::Denied);
        assert!(error.message.contains("polkit rule") && error.message.contains("uid 65534"), "{error}");
    }
}
