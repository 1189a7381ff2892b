use super::*;
use std::time::Instant;

fn sh(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
}

async fn run_sh(script: &str, timeout: Duration) -> Result<Outcome, RunError> {
    run(&sh(script), timeout, &Inherit::default()).await
}

const LONG: Duration = Duration::from_secs(20);

fn group_is_empty(pgid: i32) -> bool {
    !procfs::all().unwrap().iter().any(|stat| stat.pgrp == pgid && stat.alive())
}

#[tokio::test]
async fn a_command_answers_its_status_and_its_output() {
    let outcome = run_sh("echo out; echo one >&2; echo two >&2; exit 3", LONG).await.unwrap();
    assert_eq!(outcome.exit, Exit::Code(3));
    assert_eq!(outcome.stdout.as_slice(), b"out\n");
    assert_eq!(outcome.why(), "exit code 3: one | two");
    let outcome = run_sh("kill -KILL $$", LONG).await.unwrap();
    assert_eq!(outcome.exit, Exit::Signal(9));
    assert_eq!(outcome.why(), "SIGKILL, nothing on stderr");
}

#[tokio::test]
async fn of_long_output_the_end_is_kept() {
    let outcome =
        run_sh("head -c 3000000 /dev/zero; echo -n END; head -c 20000 /dev/zero >&2; echo END >&2", LONG).await;
    let outcome = outcome.unwrap();
    assert_eq!(outcome.stdout.len(), STDOUT_KEPT);
    assert!(outcome.stdout.ends_with(b"END"));
    assert_eq!(
        outcome.stderr, "(a line of more than 4 KiB, not shown)",
        "no part of a line is shown: it may be a secret's"
    );
    let script = "for i in 1 2 3 4 5 6 7 8 9; do head -c 600 /dev/zero | tr '\\0' $i; echo; done >&2; echo END >&2";
    let outcome = run_sh(script, LONG).await.unwrap();
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert!(outcome.stderr.len() <= STDERR_KEPT && lines.last() == Some(&"END"), "{lines:?}");
    assert!(lines.len() > 3 && lines.iter().all(|line| *line == "END" || line.len() == 600), "{lines:?}");
}

#[tokio::test]
async fn a_command_that_takes_too_long_is_killed_with_its_descendants() {
    let script = "echo $$ >&2; (trap '' TERM HUP INT; sleep 600) & trap '' TERM; sleep 600";
    let error = run_sh(script, Duration::from_secs(2)).await.unwrap_err();
    let RunError::TimedOut { stderr, .. } = &error else { panic!("{error}") };
    let group: i32 = stderr.parse().unwrap();
    assert!(error.to_string().starts_with("`/bin/sh` did not end within 2s and was killed"), "{error}");
    let deadline = Instant::now() + Duration::from_secs(5);
    while !group_is_empty(group) {
        assert!(Instant::now() < deadline, "processes of group {group} are left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_command_whose_future_is_dropped_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let pidfile = dir.path().join("pid");
    let script = sh(&format!("echo $$ > {0}.tmp; mv {0}.tmp {0}; sleep 600 & wait", pidfile.display()));
    let inherit = Inherit::default();
    let command = run(&script, LONG, &inherit);
    let appears = async {
        loop {
            if let Ok(pid) = std::fs::read_to_string(&pidfile) {
                break pid.trim().parse::<i32>().unwrap();
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let group = tokio::select! { _ = command => panic!("it does not end"), pid = appears => pid };
    let deadline = Instant::now() + Duration::from_secs(5);
    while !group_is_empty(group) {
        assert!(Instant::now() < deadline, "processes of group {group} are left");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_daemon_left_behind_is_neither_waited_for_nor_killed() {
    let before = Instant::now();
    let outcome = run_sh("sleep 30 & echo $!", LONG).await.unwrap();
    assert!(before.elapsed() < Duration::from_secs(5));
    let daemon: i32 = String::from_utf8_lossy(&outcome.stdout).trim().parse().unwrap();
    assert!(procfs::stat(daemon).unwrap().is_some_and(|stat| stat.alive()));
    nix::sys::signal::kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
}

#[tokio::test]
async fn a_program_that_cannot_start_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let error = async |program: &str| loop {
        let error = run(&[program.to_owned()], LONG, &Inherit::default()).await.unwrap_err().to_string();
        // Another test was starting a process while the file was written, and that has not become another program yet.
        if !error.contains("busy") {
            return error;
        }
    };
    assert!(error("no-such-program").await.starts_with("cannot start `no-such-program`: no such program in PATH"));
    assert_eq!(error("/no/such").await, "cannot start `/no/such`: no such file");
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "x").unwrap();
    assert!(error(plain.to_str().unwrap()).await.contains("permission denied: is it a file, executable"));
    std::fs::write(&plain, "#!/no/interpreter\n").unwrap();
    std::fs::set_permissions(&plain, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    assert!(error(plain.to_str().unwrap()).await.contains("interpreter"));
    assert!(run(&[], LONG, &Inherit::default()).await.is_err());
}

#[test]
fn the_agents_own_variables_are_not_inherited() {
    let inherit = Inherit { withhold: vec!["MY_JWT".into()], pass: vec!["VAULT_TOKEN".into(), "NOTIFY_SOCKET".into()] };
    for kept in ["PATH", "HOME", "VAULT_ADDR", "AWS_REGION", "VAULT_TOKEN"] {
        assert!(inherit.allows(kept), "{kept}");
    }
    for gone in [
        "MY_JWT",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_CONTAINER_AUTHORIZATION_TOKEN",
        "LEASEHOLD_FAILPOINT",
        "NOTIFY_SOCKET",
        "LISTEN_FDS",
        "WATCHDOG_USEC",
    ] {
        assert!(!inherit.allows(gone), "{gone}");
    }
    assert!(!Inherit::default().allows("VAULT_TOKEN"));
}

#[tokio::test]
async fn a_pidfd_tells_when_its_process_ends() {
    let mut child = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let pidfd = pidfd::Pidfd::open(i32::try_from(child.id()).unwrap()).unwrap().unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(50), pidfd.ended()).await.is_err());
    pidfd.send(Signal::SIGTERM).unwrap();
    tokio::time::timeout(LONG, pidfd.ended()).await.unwrap().unwrap();
    child.wait().unwrap();
    assert_eq!(pidfd.send(Signal::SIGTERM).unwrap_err().raw_os_error(), Some(nix::libc::ESRCH));
    assert!(pidfd::Pidfd::open(0).is_err());
    assert!(pidfd::Pidfd::open(-1).is_err());
}
