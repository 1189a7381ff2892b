//! Killed at random instants while secrets keep changing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::settled::{Expected, Refused};
use crate::world::{ALL, World};
use crate::{Dice, everything, together};

#[test]
fn killed_at_random_instants_while_secrets_change_nothing_is_lost() {
    let (worlds, kills) = if everything() { (8, 200) } else { (4, 20) };
    together(0..worlds, |of| {
        let mut dice = Dice::new(of);
        let mut world = World::new(&ALL, of % 2 == 1);
        world.start(None, None);
        world.rest(&Expected { value: "good-000001".into(), refused: Refused::Never, before: BTreeMap::new() });
        let mut done = 0;
        while done < kills / worlds {
            done += round(&mut world, &mut dice);
        }
        world.end();
    });
}

/// Changes and kills until it is enough, lets the agent recover, and answers how often it was killed.
fn round(world: &mut World, dice: &mut Dice) -> u64 {
    let before = world.refusals();
    let kills = [1, 1, 1, 2, 3][usize::try_from(dice.below(5)).unwrap()];
    // Only the last may be bad then: what is refused is known to be this one.
    let bad_end = dice.below(5) == 0;
    let mut value = None;
    for _ in 0..kills {
        if !world.running() {
            world.start(None, None);
        }
        let at = Instant::now() + Duration::from_micros(dice.below(600_000));
        while Instant::now() < at {
            value = Some(world.change(bad_end || dice.below(4) > 0));
            let pause = Duration::from_millis(1 + dice.below(60));
            std::thread::sleep(pause.min(at.saturating_duration_since(Instant::now())));
        }
        if dice.below(2) == 0 {
            value = Some(world.change(!bad_end));
        }
        world.kill();
    }
    // The last word is a clear one: not the wrong kind by chance, and none that two kills on its way may have refused.
    let value = match value {
        Some(value) if value.starts_with("bad") == bad_end && (bad_end || kills == 1) => value,
        _ => world.change(!bad_end),
    };
    world.start(None, None);
    let refused = if bad_end { Refused::Always } else { Refused::Never };
    world.rest(&Expected { value, refused, before });
    world.assert_healthy();
    kills
}
