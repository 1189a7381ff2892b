//! The way back to a committed generation: after a failure, at the start, after a supervised process died.

use super::step::Next;
use super::{Back, Candidate, Committed, Effect, Event, Failure, Outcome, Phase, Plan, Retry, State};
use crate::config::model::OnUnhealthy;

impl State {
    pub(super) fn back(mut self, plan: Plan) -> Next {
        self.settled = false;
        self.go(Phase::Back(Back::Publish, plan), Effect::Publish(plan.to.generation))
    }

    pub(super) fn returning(mut self, at: Back, plan: Plan, event: Event) -> Next {
        match (at, event) {
            (Back::Publish, Event::Published { changed }) => {
                self.touched |= changed;
                if self.stopping && self.policy.supervised {
                    return self.record(plan, plan.to.proven);
                }
                let effect = Effect::Reload { generation: plan.to.generation, needed: self.touched };
                self.go(Phase::Back(Back::Reload, plan), effect)
            }
            (Back::Publish, Event::Failed(_)) => {
                self.touched = true;
                self.degraded(plan)
            }
            (Back::Reload, Event::Done) => {
                self.reloaded();
                if self.stopping {
                    return self.record(plan, plan.to.proven);
                }
                self.go(Phase::Back(Back::Probe, plan), Effect::Probe(plan.to.generation))
            }
            (Back::Reload, Event::NotRunning) => {
                self.not_running();
                self.record(plan, false)
            }
            // It cannot be told, and is judged as it is.
            (Back::Reload, Event::Failed(failure)) if self.telling => {
                self.telling = false;
                self.refused(plan, failure)
            }
            (Back::Reload, Event::Failed(_)) => self.degraded(plan),
            (Back::Probe, Event::Done) => self.record(plan, true),
            (Back::Probe, Event::Failed(_)) if self.unsure && !self.stopping => {
                self.telling = true;
                let effect = Effect::Reload { generation: plan.to.generation, needed: true };
                self.go(Phase::Back(Back::Reload, plan), effect)
            }
            (Back::Probe, Event::Failed(_)) if self.policy.on_unhealthy == OnUnhealthy::Ignore => {
                // Where it was not told, while winding up, the next life tells it.
                let proven = !self.unsure;
                self.record(plan, proven)
            }
            (Back::Probe, Event::Failed(failure)) => self.refused(plan, failure),
            (Back::Record { .. }, Event::Done) => self.recorded(plan),
            (Back::Record { proven }, Event::Failed(_)) => {
                self.unsaved = true;
                if self.stopping { self.stopped() } else { self.wait(Retry::Record { proven, plan }) }
            }
            _ => self.stay(),
        }
    }

    fn record(mut self, plan: Plan, proven: bool) -> Next {
        self.expired &= self.journal.committed.is_some_and(|c| c.generation == plan.to.generation);
        self.journal.commit(Committed { proven, ..plan.to }, self.policy.keep);
        self.unsure &= !proven;
        self.save(Phase::Back(Back::Record { proven }, plan))
    }

    fn recorded(mut self, plan: Plan) -> Next {
        let proven = self.journal.committed.is_some_and(|c| c.proven);
        self.settled = !(proven && self.died);
        self.littered = true;
        if self.backoff.is_none() {
            self.attempt = 0;
        }
        if let Some(failed) = plan.failed {
            self.ended(failed.digest);
        }
        let report = plan.failed.map(|failed| Self::report(Outcome::RolledBack, failed));
        Self::after(report, if self.settled || self.stopping { self.next() } else { self.wait_unsettled() })
    }

    /// The generation to go back to is not healthy itself. One that never was gives way to the last that was.
    fn refused(mut self, plan: Plan, failure: Failure) -> Next {
        match self.journal.refuge {
            Some(refuge) if self.policy.on_unhealthy == OnUnhealthy::Rollback && !plan.to.proven && !self.stopping => {
                let Committed { generation, digest, .. } = plan.to;
                let failed = Candidate { generation, digest, hold: false };
                self.blame(failed, failure);
                self.back(Plan { to: refuge, failed: Some(failed) })
            }
            _ => self.degraded(plan),
        }
    }

    /// Going back failed: wait and retry, unless something newer can take its place.
    fn degraded(mut self, plan: Plan) -> Next {
        if self.stopping {
            return self.stopped();
        }
        match self.takeable() {
            Some(digest) if self.backoff != Some(digest) => self.stage(digest),
            _ => {
                self.backoff = None;
                self.wait(Retry::Back(plan))
            }
        }
    }
}
