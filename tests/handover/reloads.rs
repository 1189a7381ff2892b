//! A reload of the agent's config.

use nix::sys::signal::Signal;

use crate::world::{Settings, USUAL, world};

#[test]
fn another_drain_and_stop_timeout_hold_for_the_process_that_runs() {
    let Some(mut world) = world(&Settings { drain: "1h", ..USUAL }, "lingers-1") else { return };
    world.begin();
    let first = world.wait_key("lingers-1");
    world.configure(|text| text.replace("drain: 1h", "drain: 1s").replace("stop_timeout: 20s", "stop_timeout: 21s"));
    world.agent.signal(Signal::SIGHUP);
    world.wait_said("config and templates are taken up");
    world.change("good-2");
    world.wait_key("good-2");
    world.wait_servers(1);
    assert!(world.noted(first, "TERM") && !world.noted(first, "END"), "{}", world.notes());
    assert_eq!(world.starts("lingers-1"), 1, "it was not started anew for it");
    // Nor stopped, which says nothing of a drain.
    world.wait_said("killed: it did not end within `drain`");
}
