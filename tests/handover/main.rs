//! `on_change: handover`, and sockets that outlive a process, with the real agent and a real server under load.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests fail by panicking")]

#[path = "../support/agent.rs"]
mod agent;
mod deaths;
mod kills;
mod reloads;
mod stops;
mod world;

use std::fs;
use std::net::TcpListener;

use nix::sys::signal::Signal;
use world::{Load, Settings, USUAL, ask, config, world};

#[test]
fn a_rotation_under_load_fails_no_request_and_the_old_process_finishes_its_own() {
    let Some(mut world) = world(&USUAL, "good-1") else { return };
    world.begin();
    let first = world.wait_key("good-1");
    let load = Load::on(&world);
    let address = world.address;
    let slow = std::thread::spawn(move || ask(address, "/slow"));
    world.change("good-2");
    let second = world.wait_key("good-2");
    assert_eq!(slow.join().unwrap().unwrap()["pid"].as_i64(), Some(first), "begun before, finished by the old one");
    world.wait_servers(1);
    assert!(world.noted(first, "END"), "it was left to end: {}", world.notes());
    let seen = load.end();
    assert_eq!(seen.failed, Vec::<String>::new());
    assert!(seen.pids.contains(&first) && seen.pids.contains(&second) && seen.asked > 20, "{:?}", seen.pids);
    assert_eq!(seen.most, 2);
    assert_eq!(world.agent.outcomes(), ["committed", "committed"]);
    assert!(world.notes().contains(" public,private"));
}

#[test]
fn an_unhealthy_new_process_is_ended_and_the_old_one_never_noticed() {
    let Some(mut world) = world(&Settings { within: "12s", ..USUAL }, "good-1") else { return };
    world.begin();
    let first = world.wait_key("good-1");
    let load = Load::on(&world);
    world.change("bad-2");
    world.agent.wait_outcomes(&["committed", "rolled_back"]);
    assert_eq!(world.wait_key("good-1"), first, "with the environment of the generation that it is of");
    world.wait_servers(1);
    assert!(!world.noted(first, "TERM"), "{}", world.notes());
    let seen = load.end();
    assert_eq!((seen.failed, seen.most), (Vec::new(), 2));
    assert_eq!(seen.pids, [first].into(), "no client ever came to the one on trial");
    world.agent.wait_state("app", "healthy");
    // And the next good one is taken up from there.
    world.change("good-3");
    world.wait_key("good-3");
    world.wait_servers(1);
}

#[test]
fn what_does_not_drain_in_time_is_killed() {
    let Some(mut world) = world(&Settings { drain: "2s", ..USUAL }, "stubborn-1") else { return };
    world.begin();
    let first = world.wait_key("stubborn-1");
    world.change("good-2");
    world.agent.wait_outcomes(&["committed", "committed"]);
    world.wait_servers(1);
    world.wait_key("good-2");
    assert!(world.noted(first, "TERM") && !world.noted(first, "END"), "{}", world.notes());
}

#[test]
fn one_that_does_not_accept_whom_it_has_is_told_all_the_same_and_has_its_whole_drain_then() {
    let Some(mut world) = world(&Settings { drain: "6s", ..USUAL }, "deaf-slow-1") else { return };
    world.begin();
    let first = world.wait_key("deaf-slow-1");
    fs::write(world.agent.dir.join("deaf"), "").unwrap();
    world.wait_noted(first, "DEAF");
    let waiting = std::net::TcpStream::connect(world.address).unwrap();
    world.change("good-2");
    world.wait_key("good-2");
    world.wait_servers(1);
    assert!(world.noted(first, "END"), "{}", world.notes());
    drop(waiting);
}

#[test]
fn a_third_process_waits_until_the_first_has_drained() {
    let Some(mut world) = world(&USUAL, "slow-1") else { return };
    world.begin();
    world.wait_key("slow-1");
    let load = Load::on(&world);
    for key in ["slow-2", "slow-3"] {
        world.change(key);
        world.agent.wait(key, |a| a.read("notes").contains(&format!("START {key}")).then_some(()));
        world.agent.wait_state("app", "healthy");
    }
    world.wait_key("slow-3");
    let seen = load.end();
    assert_eq!((seen.failed, seen.most), (Vec::new(), 2));
}

#[test]
fn a_restart_on_kept_sockets_refuses_no_connection() {
    let health = "type: command, run: [true]";
    let settings = Settings { on_change: "restart", health, ..USUAL };
    let Some(mut world) = world(&settings, "good-1") else { return };
    world.begin();
    let first = world.wait_key("good-1");
    let load = Load::on(&world);
    world.change("good-2");
    let second = world.wait_key("good-2");
    // A config that changes all but `listen` changes nothing about the socket.
    let changed = config(&settings, world.address, &world.python).replace(", server.py]", ", -B, server.py]");
    fs::write(world.agent.dir.join("agent.yaml"), changed).unwrap();
    world.agent.signal(Signal::SIGHUP);
    let address = world.address;
    world.agent.wait("another process", |_| {
        ask(address, "/").ok().and_then(|answer| answer["pid"].as_i64()).filter(|pid| *pid != second)
    });
    let seen = load.end();
    assert_eq!((seen.failed, seen.most), (Vec::new(), 1));
    assert!(first != second && !world.notes().contains("private"), "{}", world.notes());
}

/// As uvicorn does with the connections that it has accepted and not read yet when it is told to end.
#[test]
fn whoever_has_just_come_is_served_before_a_process_is_told_to_end() {
    for (on_change, most) in [("restart", 1), ("handover", 2)] {
        let health = if most == 1 { "type: command, run: [true]" } else { USUAL.health };
        let Some(mut world) = world(&Settings { on_change, health, ..USUAL }, "rude-1") else { return };
        world.begin();
        world.wait_key("rude-1");
        let load = Load::on(&world);
        for key in ["rude-2", "rude-3"] {
            world.change(key);
            world.wait_key(key);
            world.wait_servers(1);
        }
        let seen = load.end();
        assert_eq!((seen.failed, seen.most), (Vec::new(), most), "{on_change}");
    }
}

#[test]
fn a_stop_ends_both_processes() {
    let Some(mut world) = world(&USUAL, "good-1") else { return };
    world.begin();
    world.change("bad-2");
    world.wait_servers(2);
    assert!(world.agent.stop().success());
    assert_eq!(world.servers(), Vec::<i32>::new());
    assert!(ask(world.address, "/").is_err(), "the socket is closed");
}

#[test]
fn a_port_that_is_taken_is_named_and_taken_up_once_it_is_free() {
    let Some(mut world) = world(&USUAL, "good-1") else { return };
    let taken = TcpListener::bind(world.address).unwrap();
    world.agent.start();
    let state = world.agent.wait_state("app", "degraded");
    let reason = state["reason"].as_str().unwrap_or_default().to_owned();
    assert!(
        reason.contains(&format!("cannot listen on tcp://{}", world.address)) && reason.contains("ss -l"),
        "{reason}"
    );
    drop(taken);
    world.agent.wait_state("app", "healthy");
    world.wait_key("good-1");
}

#[test]
fn a_new_process_that_dies_is_ended_at_once_and_one_that_served_and_died_is_started_again() {
    let Some(mut world) = world(&Settings { within: "12s", ..USUAL }, "good-1") else { return };
    world.begin();
    let first = world.wait_key("good-1");
    world.change("dead-2");
    world.agent.wait_outcomes(&["committed", "rolled_back"]);
    assert_eq!(world.wait_key("good-1"), first);
    // Now the one that serves dies while another is on trial, which fails: nothing is left to go back to but its generation.
    world.change("bad-3");
    world.wait_servers(2);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(first).unwrap()), Signal::SIGKILL).unwrap();
    world.wait_servers(1);
    let trial = i64::from(world.servers()[0]);
    let load = Load::on(&world);
    world.agent.wait_outcomes(&["committed", "rolled_back", "rolled_back"]);
    assert!(load.end().pids.contains(&trial), "rather the one on trial than none");
    assert_ne!(world.wait_key("good-1"), first);
    world.wait_servers(1);
    world.agent.wait_state("app", "healthy");
}

#[test]
fn a_stop_does_not_wait_for_the_whole_drain() {
    let Some(mut world) = world(&USUAL, "stubborn-1") else { return };
    let config =
        world.agent.read("agent.yaml").replace("drain: 40s", "drain: 1h").replace("timeout: 20s", "timeout: 1s");
    fs::write(world.agent.dir.join("agent.yaml"), config).unwrap();
    world.begin();
    world.change("good-2");
    world.agent.wait_outcomes(&["committed", "committed"]);
    assert_eq!(world.servers().len(), 2);
    assert!(world.agent.stop().success());
    assert_eq!(world.servers(), Vec::<i32>::new());
}

#[test]
fn a_unix_socket_has_its_mode_is_taken_from_a_dead_agent_and_goes_with_a_living_one() {
    use std::os::unix::fs::PermissionsExt;
    let Some(mut world) = world(&USUAL, "good-1") else { return };
    let path = world.agent.dir.join("public.sock");
    let listen = format!("listen: ['unix://{}?mode=0640', ", path.display());
    let config = world.agent.read("agent.yaml").replace("listen: [", &listen);
    fs::write(world.agent.dir.join("agent.yaml"), config).unwrap();
    world.begin();
    let first = world.wait_key("good-1");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o640);
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    // Nobody listens any more, but the file is there.
    world.agent.signal(Signal::SIGKILL);
    let _killed = world.agent.end();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(i32::try_from(first).unwrap()), Signal::SIGKILL).unwrap();
    world.wait_servers(0);
    assert!(path.exists() && std::os::unix::net::UnixStream::connect(&path).is_err());
    world.begin();
    assert_ne!(world.wait_key("good-1"), first);
    std::os::unix::net::UnixStream::connect(&path).unwrap();
    assert!(world.agent.stop().success());
    assert!(!path.exists());
    assert!(world.notes().contains(" public,public,private"));
}
