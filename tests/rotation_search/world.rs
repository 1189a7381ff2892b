//! A world around the machine: disk, process, leases, and everything that can go wrong with them.

use leasehold::config::model::OnUnhealthy;
use leasehold::rotation::{Digest, Effect, Event, Failure, Generation, Journal, Outcome, Phase, Policy, Report, State};

/// The machine under test: the real one, or one with a seeded mistake.
#[derive(Clone, Copy)]
pub struct Machine {
    pub step: fn(State, Event) -> (State, Vec<Effect>),
    pub recover: fn(Journal, Policy, bool) -> (State, Vec<Effect>),
}

/// A set of generations.
pub type Set = u32;

pub fn bit(generation: Generation) -> Set {
    1 << generation
}

/// What the destination paths hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Live {
    Nothing,
    Whole(Generation),
    Mixed,
}

/// What may still go wrong or be asked. Every use costs one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Budget {
    pub snapshots: u8,
    pub faults: u8,
    pub crashes: u8,
    pub deaths: u8,
    pub expiries: u8,
    pub commands: u8,
    pub stops: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub state: State,
    pub flight: Option<Effect>,
    /// The journal that a crash would find.
    pub disk: Journal,
    /// Staged generations by number: what each was made from.
    pub made_from: Vec<u64>,
    pub staged: Set,
    pub verified: Set,
    pub leases: Set,
    pub dead: Set,
    pub live: Live,
    /// Whether the process is there, and which generation it has taken up (None: something unknown).
    pub present: bool,
    pub taken: Option<Generation>,
    pub newest: u64,
    pub announced: bool,
    /// Digests that failed for good, as far as a crash would remember.
    pub condemned: u8,
    /// The generation that a probe saw healthy since anything was published or reloaded.
    pub proven: Option<Generation>,
    /// Lives of the agent in which the open intent was published.
    pub lives: u8,
    pub published_this_life: bool,
    /// Whether an operation failed or the agent was killed since the last rest.
    pub disturbed: bool,
    pub stopped: bool,
    pub bad: u64,
    pub budget: Budget,
}

/// Digest 3 is made of other inputs than 0 and gives the same bytes.
pub fn output(digest: u64) -> u64 {
    if digest == 3 { 0 } else { digest }
}

/// What a step of the world did, for the rules.
#[derive(Clone, Debug)]
pub enum Happened {
    Told(Event),
    Crashed,
    Restarted,
    Surroundings,
}

impl World {
    pub fn new(machine: Machine, policy: Policy, bad: u64, budget: Budget) -> World {
        let (state, effects) = (machine.recover)(Journal::default(), policy, false);
        let mut world = World {
            state,
            flight: None,
            disk: Journal::default(),
            made_from: Vec::new(),
            staged: 0,
            verified: 0,
            leases: 0,
            dead: 0,
            live: Live::Nothing,
            present: true,
            taken: None,
            newest: 0,
            announced: false,
            condemned: 0,
            proven: None,
            lives: 0,
            published_this_life: false,
            disturbed: false,
            stopped: false,
            bad,
            budget,
        };
        world.present = !policy.supervised;
        world.carry(effects);
        world
    }

    pub fn digest_of(&self, generation: Generation) -> u64 {
        self.made_from[generation as usize]
    }

    pub fn healthy(&self) -> bool {
        self.present && self.taken.is_some_and(|g| self.digest_of(g) != self.bad && self.dead & bit(g) == 0)
    }

    /// Takes the effects of a step up: operations go in flight, the rest is noted.
    pub fn carry(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Report(report) => self.note(report),
                Effect::Wait { .. } => {}
                Effect::Stopped => self.stopped = true,
                operation => {
                    assert!(self.flight.is_none(), "two operations in flight: {:?} and {operation:?}", self.flight);
                    self.flight = Some(operation);
                }
            }
        }
        if self.state.phase == Phase::Rest {
            self.disturbed = false;
        }
    }

    fn note(&mut self, Report { outcome, digest, .. }: Report) {
        let quarantined = self.state.journal.is_quarantined(digest);
        if outcome == Outcome::Quarantined || (outcome == Outcome::RolledBack && quarantined) {
            self.condemned |= 1 << digest.0;
        }
        if outcome == Outcome::Committed {
            self.condemned &= !(1 << digest.0);
        }
    }

    pub fn tell(&mut self, machine: Machine, event: Event) {
        let state = self.state.clone();
        let (state, effects) = (machine.step)(state, event);
        self.state = state;
        // Only the length of a wait hangs on it.
        self.state.attempt = self.state.attempt.min(1);
        self.carry(effects);
    }

    fn generation(&mut self, digest: Digest) -> Generation {
        self.made_from.push(digest.0);
        let generation = self.made_from.len() as Generation - 1;
        self.staged |= bit(generation);
        self.leases |= bit(generation);
        generation
    }

    /// The operation happens, and this is its honest answer.
    pub fn perform(&mut self, operation: &Effect) -> Event {
        match operation {
            Effect::Stage(digest) => {
                let committed = self.state.journal.committed.map(|c| output(self.digest_of(c.generation)));
                if committed == Some(output(digest.0)) {
                    return Event::Unchanged;
                }
                Event::Staged(self.generation(*digest))
            }
            Effect::Verify(generation) => {
                self.verified |= bit(*generation);
                Event::Done
            }
            Effect::Save(journal) => {
                if self.disk.intent.map(|i| i.generation) != journal.intent.map(|i| i.generation) {
                    self.lives = 0;
                    self.published_this_life = false;
                }
                self.disk = journal.clone();
                Event::Done
            }
            Effect::Publish(generation) => {
                if self.disk.intent.is_some_and(|i| i.generation == *generation) && !self.published_this_life {
                    self.lives += 1;
                    self.published_this_life = true;
                }
                let changed = self.live != Live::Whole(*generation);
                self.live = Live::Whole(*generation);
                if changed {
                    self.proven = None;
                }
                Event::Published { changed }
            }
            Effect::Reload { generation, needed } => self.reload(*generation, *needed),
            Effect::Probe(generation) => {
                let healthy = self.healthy();
                self.proven = healthy.then_some(*generation);
                if healthy { Event::Done } else { Event::Failed(Failure::ForGood) }
            }
            Effect::Halt => {
                self.present = false;
                self.taken = None;
                Event::Done
            }
            Effect::Prune { keep, using } => {
                let set = |list: &[Generation]| list.iter().fold(0, |set, g| set | bit(*g));
                self.staged &= set(keep);
                self.leases &= set(using);
                Event::Done
            }
            Effect::Wait { .. } | Effect::Report(_) | Effect::Stopped => unreachable!("not an operation"),
        }
    }

    fn reload(&mut self, generation: Generation, needed: bool) -> Event {
        if self.state.policy.supervised {
            if !self.present || needed || self.taken != Some(generation) {
                self.present = true;
                self.taken = Some(generation);
            }
            return Event::Done;
        }
        if !self.present {
            return Event::NotRunning;
        }
        if needed {
            self.taken = match self.live {
                Live::Whole(live) => Some(live),
                _ => None,
            };
        }
        Event::Done
    }

    /// A publish that was cut off between two files.
    pub fn half_publish(&mut self, generation: Generation) {
        if self.live != Live::Whole(generation) {
            self.live = Live::Mixed;
            self.proven = None;
        }
    }

    /// The agent is gone and comes back.
    pub fn restart(&mut self, machine: Machine) {
        let policy = self.state.policy;
        self.flight = None;
        self.stopped = false;
        self.announced = false;
        self.proven = None;
        self.condemned &= self.disk.quarantined.iter().fold(0, |set, d| set | 1 << d.0);
        self.published_this_life = false;
        if policy.supervised {
            self.present = false;
            self.taken = None;
        }
        let expired = self.disk.committed.is_some_and(|c| self.dead & bit(c.generation) != 0);
        let (state, effects) = (machine.recover)(self.disk.clone(), policy, expired);
        self.state = state;
        self.carry(effects);
    }

    pub fn on_unhealthy(&self) -> OnUnhealthy {
        self.state.policy.on_unhealthy
    }
}
