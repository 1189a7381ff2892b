//! The way forward: Stage, Verify, Intend, Publish, Reload, Probe, Commit.

use super::step::Next;
use super::{
    Back, Begun, Candidate, Committed, Digest, Effect, Event, Failure, Forward, Intent, Outcome, Phase, Plan, Retry,
    State,
};
use crate::config::model::OnUnhealthy;

impl State {
    pub(super) fn staging(mut self, digest: Digest, event: Event) -> Next {
        match event {
            _ if self.stopping => self.stopped(),
            Event::Staged(generation) => {
                let candidate = Candidate { generation, digest, hold: false };
                self.begun = Some(Begun { digest, generation: Some(generation), asked: false });
                self.go(Phase::Verifying(candidate), Effect::Verify(generation))
            }
            Event::Unchanged => {
                if let Some(committed) = &mut self.journal.committed {
                    committed.digest = digest;
                    self.unsaved = true;
                }
                self.attempt = 0;
                self.ended(digest);
                self.next()
            }
            Event::Failed(failure) => self.abort(digest, None, failure),
            _ => self.stay(),
        }
    }

    pub(super) fn verifying(self, candidate: Candidate, event: Event) -> Next {
        match event {
            _ if self.stopping => self.stopped(),
            Event::Done => self.intend(candidate, 1),
            Event::Failed(failure) => self.abort(candidate.digest, Some(candidate), failure),
            _ => self.stay(),
        }
    }

    /// Writes down which generation is about to be live, before it can be.
    pub(super) fn intend(mut self, candidate: Candidate, tries: u8) -> Next {
        let Candidate { generation, digest, hold } = candidate;
        self.journal.intent = Some(Intent { generation, digest, hold, tries });
        self.save(Phase::Forward(Forward::Intend, candidate))
    }

    pub(super) fn publish(mut self, candidate: Candidate) -> Next {
        self.settled = false;
        self.go(Phase::Forward(Forward::Publish, candidate), Effect::Publish(candidate.generation))
    }

    /// Goes on at a step after a wait.
    pub(super) fn resume(self, at: Forward, candidate: Candidate) -> Next {
        match at {
            Forward::Reload => self.reload(candidate),
            _ => self.publish(candidate),
        }
    }

    fn reload(self, candidate: Candidate) -> Next {
        let effect = Effect::Reload { generation: candidate.generation, needed: self.touched || self.telling };
        self.go(Phase::Forward(Forward::Reload, candidate), effect)
    }

    fn probe(self, candidate: Candidate) -> Next {
        self.go(Phase::Forward(Forward::Probe, candidate), Effect::Probe(candidate.generation))
    }

    pub(super) fn forward(mut self, at: Forward, candidate: Candidate, event: Event) -> Next {
        match (at, event) {
            // Settled: nothing was touched yet. Else a life before this one may have published.
            (Forward::Intend, Event::Done) if self.stopping => {
                if self.settled {
                    self.stopped()
                } else {
                    self.wind_back()
                }
            }
            (Forward::Intend, Event::Done) => self.publish(candidate),
            (Forward::Intend, Event::Failed(_)) => self.not_intended(candidate),
            (Forward::Publish, Event::Published { changed }) => {
                self.touched |= changed;
                if self.stopping { self.wind_back() } else { self.reload(candidate) }
            }
            (Forward::Publish, Event::Failed(failure)) => {
                self.touched = true;
                self.failed(Forward::Publish, candidate, failure)
            }
            (Forward::Reload, Event::Done) => {
                self.reloaded();
                if self.stopping { self.wind_back() } else { self.probe(candidate) }
            }
            (Forward::Reload, Event::NotRunning) => {
                self.not_running();
                self.commit(candidate, false)
            }
            (Forward::Reload, Event::Failed(failure)) => {
                self.telling = false;
                self.failed(Forward::Reload, candidate, failure)
            }
            (Forward::Probe, Event::Done) => self.commit(candidate, true),
            (Forward::Probe, Event::Failed(_)) if self.unsure && !self.stopping => {
                self.telling = true;
                self.reload(candidate)
            }
            (Forward::Probe, Event::Failed(failure)) => self.unhealthy(candidate, failure),
            (Forward::Commit { proven }, Event::Done) => self.committed(candidate, proven),
            (Forward::Commit { proven }, Event::Failed(_)) => {
                self.unsaved = true;
                if self.stopping { self.stopped() } else { self.wait(Retry::Commit { proven, candidate }) }
            }
            (Forward::Hold, Event::Done | Event::Failed(_)) => {
                let saved = event == Event::Done;
                self.unsaved |= !saved;
                self.ended(candidate.digest);
                let report = Self::report(Outcome::Held, candidate);
                Self::after(Some(report), if saved { self.next() } else { self.wait(Retry::Next) })
            }
            (Forward::Halt, Event::Done | Event::Failed(_)) if self.stopping => self.stopped(),
            (Forward::Halt, Event::Done | Event::Failed(_)) => self.wait(Retry::Forward(Forward::Reload, candidate)),
            _ => self.stay(),
        }
    }

    /// The process has what is live, where it had to be told.
    pub(super) fn reloaded(&mut self) {
        self.unsure &= !self.touched && !self.telling;
        (self.touched, self.telling, self.died) = (false, false, false);
    }

    /// What comes by itself reads what is live, unless it read before.
    pub(super) fn not_running(&mut self) {
        (self.touched, self.telling, self.unsure) = (false, false, true);
    }

    /// The intent may or may not be on disk; the target was not touched by it.
    fn not_intended(mut self, candidate: Candidate) -> Next {
        self.unsaved = true;
        if self.stopping {
            return self.stopped();
        }
        if self.settled {
            self.journal.intent = None;
        }
        if candidate.hold && self.command.is_none() {
            self.command = Some(candidate);
            self.ended(candidate.digest);
        }
        self.backoff = Some(candidate.digest);
        self.wait(Retry::Next)
    }

    fn commit(mut self, candidate: Candidate, proven: bool) -> Next {
        let Candidate { generation, digest, .. } = candidate;
        // As the journal has it: a release may have come since.
        let hold = self.journal.intent.is_some_and(|i| i.hold);
        self.journal.commit(Committed { generation, digest, proven }, self.policy.keep);
        self.journal.quarantined.retain(|d| *d != digest);
        self.journal.held |= hold;
        self.expired = false;
        self.unsure &= !proven;
        self.save(Phase::Forward(Forward::Commit { proven }, candidate))
    }

    fn committed(mut self, candidate: Candidate, proven: bool) -> Next {
        self.settled = !(proven && self.died);
        self.attempt = 0;
        self.backoff = None;
        self.littered = true;
        self.ended(candidate.digest);
        let report = Self::report(Outcome::Committed, candidate);
        Self::after(Some(report), if self.settled || self.stopping { self.next() } else { self.wait_unsettled() })
    }

    fn unhealthy(mut self, candidate: Candidate, failure: Failure) -> Next {
        match self.policy.on_unhealthy {
            _ if self.stopping => self.wind_back(),
            OnUnhealthy::Ignore => self.commit(candidate, true),
            OnUnhealthy::Hold => {
                self.journal.held = true;
                self.save(Phase::Forward(Forward::Hold, candidate))
            }
            OnUnhealthy::Rollback => self.failed(Forward::Probe, candidate, failure),
        }
    }

    /// It may have happened, so never stop half-way: back where there is a refuge, else forward again after a wait.
    fn failed(mut self, at: Forward, candidate: Candidate, failure: Failure) -> Next {
        if self.stopping {
            return self.wind_back();
        }
        if let Some(to) = self.fallback() {
            self.blame(candidate, failure);
            return self.back(Plan { to, failed: Some(candidate) });
        }
        match self.takeable() {
            Some(digest) if digest != candidate.digest => self.stage(digest),
            _ if self.policy.supervised && at != Forward::Publish => {
                self.touched = true;
                self.go(Phase::Forward(Forward::Halt, candidate), Effect::Halt)
            }
            // Not from Probe: the process may be gone, and only a reload finds that out. It tells nothing twice.
            _ if at == Forward::Probe => self.wait(Retry::Forward(Forward::Reload, candidate)),
            _ => self.wait(Retry::Forward(at, candidate)),
        }
    }

    /// The agent is winding up with a candidate published: back without judging it, or leave it to recovery.
    fn wind_back(self) -> Next {
        match self.fallback() {
            Some(to) => self.go(Phase::Back(Back::Publish, Plan { to, failed: None }), Effect::Publish(to.generation)),
            None => self.stopped(),
        }
    }
}
