//! A world around the machine: disk, process, leases, and everything that can go wrong with them.

use leasehold::config::model::OnUnhealthy;
use leasehold::rotation::{
    Back, Digest, Effect, Event, Failure, Forward, Generation, Journal, Outcome, Phase, Policy, Report, State,
};

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

fn digests(list: &[Digest]) -> u8 {
    list.iter().fold(0, |set, d| set | 1 << d.0)
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
    /// What the operator set, whatever the machine makes of it.
    pub policy: Policy,
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
    /// Digests that failed for good, as far as a crash would remember. Judged by the world, not by the machine.
    pub condemned: u8,
    /// Condemned digests of which a release is not on disk yet.
    pub pardoned: u8,
    /// Digests whose rotation began and was not yet told to have ended.
    pub begun: u8,
    /// Whether an operator is waited for, as far as a crash would remember.
    pub held: bool,
    /// The rollback that an operator asked for and that has not ended.
    pub asked: Option<Generation>,
    /// Whether a release came after it was asked for: then it need not end in a hold.
    pub freed: bool,
    /// The rollback that was on its way when that one was asked for: it, too, ends in a hold where it is committed.
    pub overtaken: Option<Generation>,
    /// Whether a wait's timer runs.
    pub timer: bool,
    /// Whether a second operation was put in flight.
    pub crowded: bool,
    /// The process came by itself, having read its files while others were there, and was not told since.
    pub stray: bool,
    /// As far as the machine can know, it may be such a process.
    pub unheard: bool,
    /// Whether the operation in flight is a reload that is needed.
    pub telling: bool,
    /// Whether it tells one that was not healthy when it came.
    pub second: bool,
    /// The generation that a probe saw healthy since anything was published or reloaded.
    pub proven: Option<Generation>,
    /// Lives of the agent in which the open intent was published.
    pub lives: u8,
    pub published_this_life: bool,
    /// Whether an operation failed since the last rest.
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
    /// The machine was told this, and reported that.
    Told(Event, Vec<Report>),
    /// The agent was killed, and what came back reported this.
    Crashed(Vec<Report>),
    /// The agent had stopped, and what came back reported this.
    Restarted(Vec<Report>),
    /// The process came or went unseen.
    Surroundings,
}

impl Happened {
    /// The event, where there was one.
    pub fn event(&self) -> Option<Event> {
        match self {
            Happened::Told(event, _) => Some(*event),
            _ => None,
        }
    }

    /// What was reported.
    pub fn reports(&self) -> &[Report] {
        match self {
            Happened::Told(_, reports) | Happened::Crashed(reports) | Happened::Restarted(reports) => reports,
            Happened::Surroundings => &[],
        }
    }
}

impl World {
    pub fn new(machine: Machine, policy: Policy, bad: u64, budget: Budget) -> World {
        let (state, effects) = (machine.recover)(Journal::default(), policy, false);
        let mut world = World {
            state,
            policy,
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
            pardoned: 0,
            begun: 0,
            held: false,
            asked: None,
            freed: false,
            overtaken: None,
            timer: false,
            crowded: false,
            stray: false,
            unheard: false,
            telling: false,
            second: false,
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

    /// Takes the effects of a step up: operations go in flight, the rest is noted. Answers what was reported.
    pub fn carry(&mut self, effects: Vec<Effect>) -> Vec<Report> {
        let mut reports = Vec::new();
        for effect in effects {
            self.timer = matches!(effect, Effect::Wait { .. });
            match effect {
                Effect::Report(report) => {
                    self.note(report);
                    reports.push(report);
                }
                Effect::Wait { .. } => {}
                Effect::Stopped => self.stopped = true,
                operation => {
                    if let Effect::Stage(digest) = operation {
                        self.begun |= 1 << digest.0;
                    }
                    self.telling = matches!(operation, Effect::Reload { needed: true, .. });
                    self.crowded |= self.flight.is_some();
                    self.flight = Some(operation);
                }
            }
        }
        if self.state.phase == Phase::Rest {
            self.disturbed = false;
        }
        reports
    }

    fn note(&mut self, Report { outcome, digest, generation }: Report) {
        self.begun &= !(1 << digest.0);
        if outcome == Outcome::Committed {
            self.condemned &= !(1 << digest.0);
        }
        // A release that came while the hold was being saved has the last word.
        self.held |= outcome == Outcome::Held && self.state.journal.held;
        let committed = outcome == Outcome::Committed;
        if self.overtaken.take_if(|overtaken| Some(*overtaken) == generation).is_some() {
            self.held |= committed && self.state.journal.held;
        }
        if generation.is_some() && generation == self.asked && (self.disk.held || self.freed || !committed) {
            // The same may have been asked for again meanwhile. What is superseded leaves its intent behind until another
            // is saved, so that there only one that is being saved is another.
            let other = match (outcome, self.state.phase) {
                (Outcome::Held, _) => false,
                (Outcome::Superseded, phase) => matches!(phase, Phase::Forward(Forward::Intend, _)),
                _ => true,
            };
            let open = self.state.journal.intent.filter(|i| i.hold && other).map(|i| i.generation);
            let again = self.state.command.map(|c| c.generation).or(open);
            self.asked = again.filter(|_| again == self.asked);
            self.freed &= self.asked.is_some();
            self.held |= committed && self.state.journal.held;
        }
    }

    /// Inputs that fail for good are condemned: the world's own judgement, from what the machine is told.
    fn judge(&mut self, event: Event) {
        if event != Event::Failed(Failure::ForGood) || self.state.stopping {
            return;
        }
        let rollback = self.on_unhealthy() == OnUnhealthy::Rollback;
        let refuge = self.state.journal.committed.is_some_and(|c| self.dead & bit(c.generation) == 0);
        let digest = match self.state.phase {
            Phase::Staging(digest) => Some(digest),
            Phase::Verifying(candidate) => Some(candidate.digest),
            Phase::Forward(at, candidate) if refuge && !candidate.hold => match at {
                Forward::Publish | Forward::Reload => Some(candidate.digest),
                Forward::Probe => rollback.then_some(candidate.digest),
                _ => None,
            },
            // What a process does that was not told yet says nothing of the files that it may not have read.
            Phase::Back(Back::Probe, _) | Phase::Forward(Forward::Probe, _) if self.unheard => None,
            Phase::Back(at, plan)
                if (at == Back::Probe || (at == Back::Reload && self.second))
                    && rollback
                    && !plan.to.proven
                    && self.disk.refuge.is_some() =>
            {
                Some(plan.to.digest)
            }
            _ => None,
        };
        self.condemned |= digest.map_or(0, |d| 1 << d.0);
    }

    pub fn tell(&mut self, machine: Machine, event: Event) -> Happened {
        self.judge(event);
        match event {
            Event::Release => {
                self.held = false;
                self.overtaken = None;
                self.freed = self.asked.is_some();
                self.pardoned |= std::mem::take(&mut self.condemned);
            }
            Event::Rollback(generation, _) => {
                let on_its_way = self.state.command.map(|c| c.generation) != self.asked && !self.freed;
                self.overtaken = self.asked.filter(|_| on_its_way).or(self.overtaken);
                (self.asked, self.freed) = (Some(generation), false);
            }
            Event::Stop => (self.asked, self.freed, self.overtaken) = (None, false, None),
            Event::Unchanged => {
                if let Phase::Staging(digest) = self.state.phase {
                    self.begun &= !(1 << digest.0);
                }
            }
            Event::Timer => self.timer = false,
            _ => {}
        }
        self.unheard = match (self.state.phase, event) {
            (_, Event::NotRunning) => true,
            (Phase::Forward(Forward::Reload, _) | Phase::Back(Back::Reload, _), Event::Done) => {
                self.unheard && !self.telling
            }
            (Phase::Forward(Forward::Probe, _) | Phase::Back(Back::Probe, _), Event::Done) => false,
            _ => self.unheard,
        };
        self.second = match (self.state.phase, event) {
            (Phase::Back(Back::Probe, _), Event::Failed(_)) => self.unheard && !self.state.stopping,
            (Phase::Back(Back::Reload, _), Event::Done | Event::NotRunning | Event::Failed(_)) => false,
            _ => self.second,
        };
        let before = self.flight.clone();
        let state = self.state.clone();
        let (state, effects) = (machine.step)(state, event);
        self.state = state;
        // Only the length of a wait hangs on it.
        self.state.attempt = self.state.attempt.min(1);
        let reports = self.carry(effects);
        self.unheard |= event == Event::Appeared && self.flight != before;
        Happened::Told(event, reports)
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
                self.pardoned &= digests(&journal.quarantined);
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
        if self.policy.supervised {
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
            self.stray = false;
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

    /// The agent is gone and comes back; what it reports.
    pub fn restart(&mut self, machine: Machine) -> Vec<Report> {
        let policy = self.policy;
        self.flight = None;
        self.stopped = false;
        self.announced = false;
        self.timer = false;
        (self.telling, self.second) = (false, false);
        self.unheard = self.disk.committed.is_some_and(|c| !c.proven);
        self.proven = None;
        self.condemned = (self.condemned | std::mem::take(&mut self.pardoned)) & digests(&self.disk.quarantined);
        self.begun &= self.disk.intent.map_or(0, |i| 1 << i.digest.0);
        self.held = self.disk.held;
        self.asked = self.disk.intent.filter(|i| i.hold).map(|i| i.generation);
        self.freed = false;
        self.overtaken = None;
        self.published_this_life = false;
        if policy.supervised {
            self.present = false;
            self.taken = None;
        }
        let expired = self.disk.committed.is_some_and(|c| self.dead & bit(c.generation) != 0);
        let (state, effects) = (machine.recover)(self.disk.clone(), policy, expired);
        if let (Some(intent), false) = (self.disk.intent, state.journal.quarantined == self.disk.quarantined) {
            self.condemned |= u8::from(intent.tries >= 2) << intent.digest.0;
        }
        self.state = state;
        self.carry(effects)
    }

    pub fn on_unhealthy(&self) -> OnUnhealthy {
        self.policy.on_unhealthy
    }
}
