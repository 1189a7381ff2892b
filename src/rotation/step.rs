//! What happened, and what follows: the dispatch, and the choice of the next thing to do.

use super::{
    Back, Begun, Candidate, Committed, Digest, Effect, Event, Failure, Forward, Journal, Outcome, Phase, Plan, Policy,
    Report, Retry, State,
};

/// A state and what to do now.
pub(super) type Next = (State, Vec<Effect>);

/// One step. Total: an event that makes no sense in a state changes nothing.
pub fn step(state: State, event: Event) -> (State, Vec<Effect>) {
    match event {
        Event::Snapshot(digest) => state.snapshot(digest),
        Event::Expired => State { expired: true, ..state }.stay(),
        Event::Died => state.died(),
        Event::Appeared => state.appeared(),
        Event::Timer => state.timer(),
        Event::Release => state.release(),
        Event::Rollback(generation, digest) => state.rollback(Candidate { generation, digest, hold: true }),
        Event::Stop => state.stop(),
        answer => state.answer(answer),
    }
}

/// The first state of a life of the agent, from what the journal says. `expired`: the committed credentials are dead.
pub fn recover(journal: Journal, policy: Policy, expired: bool) -> (State, Vec<Effect>) {
    let mut state = State {
        policy,
        unsaved: false,
        phase: Phase::Rest,
        newest: None,
        settled: false,
        died: false,
        // With either, another generation may have been live, and what the process took up is not known.
        touched: journal.intent.is_some() || journal.refuge.is_some(),
        telling: false,
        unsure: journal.committed.is_some_and(|committed| !committed.proven),
        littered: true,
        prune_failed: false,
        expired,
        attempt: 0,
        backoff: None,
        begun: None,
        command: None,
        stopping: false,
        journal,
    };
    let Some(intent) = state.journal.intent else { return state.next() };
    let candidate = intent.candidate();
    state.begun = Some(Begun::of(candidate));
    if state.journal.held {
        return state.publish(candidate);
    }
    let refused = state.journal.is_quarantined(candidate.digest) && !candidate.hold;
    if let (Some(to), true) = (state.fallback(), intent.tries >= 2 || refused) {
        state.quarantine(candidate);
        return state.back(Plan { to, failed: Some(candidate) });
    }
    state.intend(candidate, intent.tries.saturating_add(1))
}

impl State {
    pub(super) fn stay(self) -> Next {
        (self, Vec::new())
    }

    pub(super) fn go(mut self, phase: Phase, effect: Effect) -> Next {
        self.phase = phase;
        (self, vec![effect])
    }

    /// Saves the journal as it is now; `phase` awaits the answer.
    pub(super) fn save(mut self, phase: Phase) -> Next {
        self.unsaved = false;
        let journal = self.journal.clone();
        self.go(phase, Effect::Save(journal))
    }

    pub(super) fn wait(mut self, retry: Retry) -> Next {
        self.attempt = self.attempt.saturating_add(1);
        let attempt = self.attempt;
        self.go(Phase::Waiting(retry), Effect::Wait { attempt })
    }

    pub(super) fn stopped(self) -> Next {
        self.go(Phase::Stopped, Effect::Stopped)
    }

    /// The generation to go back to, unless its credentials are dead.
    pub(super) fn fallback(&self) -> Option<Committed> {
        self.journal.committed.filter(|_| !self.expired)
    }

    pub(super) fn quarantine(&mut self, candidate: Candidate) {
        if !candidate.hold {
            self.journal.quarantine(candidate.digest);
            self.unsaved = true;
        }
    }

    /// What a failure means for its inputs: not again, or not before a wait.
    pub(super) fn blame(&mut self, candidate: Candidate, failure: Failure) {
        match failure {
            Failure::ForGood => self.quarantine(candidate),
            Failure::ForNow => self.backoff = Some(candidate.digest),
        }
    }

    /// The newest inputs, where they are not what is committed, not quarantined, and nobody holds the target.
    pub(super) fn takeable(&self) -> Option<Digest> {
        let committed = self.journal.committed.map(|c| c.digest);
        self.newest.filter(|d| {
            !self.journal.held && !self.stopping && Some(*d) != committed && !self.journal.is_quarantined(*d)
        })
    }

    pub(super) fn stage(mut self, digest: Digest) -> Next {
        self.littered = true;
        let superseded = self.superseded(Some(digest));
        self.begun = Some(Begun { digest, generation: None, asked: false });
        Self::after(superseded, self.go(Phase::Staging(digest), Effect::Stage(digest)))
    }

    /// A rotation of these inputs has ended, and is told.
    pub(super) fn ended(&mut self, digest: Digest) {
        self.begun = self.begun.filter(|b| b.digest != digest);
    }

    /// The end of a rotation that is not of these inputs any more.
    fn superseded(&mut self, now: Option<Digest>) -> Option<Effect> {
        let Begun { digest, generation, .. } = self.begun.take_if(|b| b.asked || Some(b.digest) != now)?;
        Some(Effect::Report(Report { outcome: Outcome::Superseded, generation, digest }))
    }

    /// Tells something before what follows.
    pub(super) fn after(report: Option<Effect>, (state, effects): Next) -> Next {
        (state, report.into_iter().chain(effects).collect())
    }

    /// Nothing is in flight: what is there to do?
    pub(super) fn next(mut self) -> Next {
        if self.stopping {
            return self.stopped();
        }
        let open = self.journal.intent.map(|i| i.digest);
        let superseded = match self.begun {
            Some(begun) if open != Some(begun.digest) => self.superseded(self.takeable()),
            _ => None,
        };
        Self::after(superseded, self.choose())
    }

    fn choose(mut self) -> Next {
        if self.unsaved {
            return self.save(Phase::Saving);
        }
        if let Some(candidate) = self.command.take() {
            let superseded = self.superseded(Some(candidate.digest));
            self.begun = Some(Begun::of(candidate));
            return Self::after(superseded, self.intend(candidate, 1));
        }
        let open = self.journal.intent.map(|i| i.candidate());
        let held_open = self.journal.held && open.is_some();
        if let (Some(to), false, false) = (self.journal.committed, self.settled, held_open)
            && (!self.expired || open.is_none())
        {
            return self.back(Plan { to, failed: open });
        }
        if self.prunable() && !self.prune_failed {
            let (keep, using) = (self.journal.keep(), self.journal.using());
            return self.go(Phase::Pruning, Effect::Prune { keep, using });
        }
        if let Some(digest) = self.takeable() {
            return if self.backoff == Some(digest) { self.wait(Retry::Stage(digest)) } else { self.stage(digest) };
        }
        match open {
            Some(candidate) if !self.settled && (self.died || !self.journal.held) => {
                self.wait(Retry::Forward(Forward::Publish, candidate))
            }
            _ if self.prunable() => self.wait(Retry::Prune),
            _ => {
                self.phase = Phase::Rest;
                self.stay()
            }
        }
    }

    fn prunable(&self) -> bool {
        self.littered && self.settled && self.journal.committed.is_some_and(|c| c.proven)
    }

    fn snapshot(mut self, digest: Digest) -> Next {
        let news = self.newest != Some(digest);
        self.newest = Some(digest);
        if !news {
            return self.stay();
        }
        match self.phase {
            Phase::Rest => self.next(),
            Phase::Waiting(Retry::Prune) if self.takeable().is_some() => self.next(),
            Phase::Waiting(Retry::Stage(old)) if old != digest => self.afresh().next(),
            Phase::Waiting(Retry::Verify(old)) if old.digest != digest => self.afresh().next(),
            Phase::Waiting(Retry::Forward(_, old)) if old.digest != digest && self.takeable().is_some() => {
                self.afresh().stage(digest)
            }
            Phase::Waiting(Retry::Back(_)) if self.takeable().is_some() => self.afresh().stage(digest),
            _ => self.stay(),
        }
    }

    /// Other inputs: what the old ones met does not count.
    fn afresh(mut self) -> State {
        self.attempt = 0;
        self.backoff = None;
        self
    }

    fn died(mut self) -> Next {
        self.settled = false;
        self.died = true;
        match self.phase {
            Phase::Rest | Phase::Waiting(Retry::Next | Retry::Prune | Retry::Stage(_) | Retry::Verify(_)) => {
                self.wait_unsettled()
            }
            _ => self.stay(),
        }
    }

    /// Waits, then brings the target back to where it should be.
    pub(super) fn wait_unsettled(self) -> Next {
        let open = self.journal.intent.map(|i| i.candidate());
        match (self.journal.committed, open) {
            (_, Some(candidate)) if self.journal.held || self.fallback().is_none() => {
                self.wait(Retry::Forward(Forward::Publish, candidate))
            }
            (Some(to), failed) => self.wait(Retry::Back(Plan { to, failed })),
            (None, _) => self.next(),
        }
    }

    fn appeared(mut self) -> Next {
        match (self.phase, self.journal.committed) {
            (Phase::Rest, Some(to)) if self.settled && !to.proven => {
                self.unsure = true;
                let effect = Effect::Probe(to.generation);
                self.go(Phase::Back(Back::Probe, Plan { to, failed: None }), effect)
            }
            _ => self.stay(),
        }
    }

    fn release(mut self) -> Next {
        let held = std::mem::take(&mut self.journal.held);
        if let (true, Some(intent)) = (held, &mut self.journal.intent) {
            intent.hold = false;
        }
        self.journal.quarantined.clear();
        self.unsaved = true;
        self.attempt = 0;
        self.backoff = None;
        let open = self.journal.intent.map(|i| i.candidate());
        match (self.phase, open) {
            (Phase::Rest, Some(candidate)) if held && self.newest.is_none_or(|d| d == candidate.digest) => {
                self.publish(candidate)
            }
            (Phase::Rest, Some(_)) if held && self.takeable().is_some() => match self.takeable() {
                Some(digest) => self.stage(digest),
                None => self.next(),
            },
            (Phase::Rest | Phase::Waiting(Retry::Stage(_)), _) => self.next(),
            _ => self.stay(),
        }
    }

    fn rollback(mut self, candidate: Candidate) -> Next {
        self.command = Some(candidate);
        match self.phase {
            Phase::Waiting(Retry::Commit { .. } | Retry::Record { .. } | Retry::Next) => self.stay(),
            Phase::Rest | Phase::Waiting(_) => self.next(),
            _ => self.stay(),
        }
    }

    fn stop(mut self) -> Next {
        self.stopping = true;
        match self.phase {
            Phase::Rest | Phase::Waiting(_) => self.stopped(),
            _ => self.stay(),
        }
    }

    fn timer(mut self) -> Next {
        let Phase::Waiting(retry) = self.phase else { return self.stay() };
        match retry {
            Retry::Next => self.next(),
            Retry::Prune => {
                self.prune_failed = false;
                self.next()
            }
            Retry::Stage(_) => {
                self.backoff = None;
                self.next()
            }
            Retry::Verify(candidate) => self.go(Phase::Verifying(candidate), Effect::Verify(candidate.generation)),
            // An intent that is needed may not be on disk, or one that was dropped may be.
            Retry::Forward(..) if self.unsaved => self.save(Phase::Saving),
            Retry::Back(_) if self.unsaved && self.journal.intent.is_none() && self.journal.refuge.is_none() => {
                self.save(Phase::Saving)
            }
            Retry::Forward(at, candidate) => self.resume(at, candidate),
            Retry::Back(plan) => match (self.takeable(), self.journal.intent) {
                (Some(digest), _) if self.backoff != Some(digest) => self.stage(digest),
                (_, Some(intent)) if self.expired => self.publish(intent.candidate()),
                _ => self.back(plan),
            },
            Retry::Commit { proven, candidate } => self.save(Phase::Forward(Forward::Commit { proven }, candidate)),
            Retry::Record { proven, plan } => self.save(Phase::Back(Back::Record { proven }, plan)),
        }
    }

    fn answer(mut self, event: Event) -> Next {
        match (self.phase, event) {
            (Phase::Staging(digest), event) => self.staging(digest, event),
            (Phase::Verifying(candidate), event) => self.verifying(candidate, event),
            (Phase::Forward(at, candidate), event) => self.forward(at, candidate, event),
            (Phase::Back(at, plan), event) => self.returning(at, plan, event),
            (Phase::Saving, Event::Done) => self.next(),
            (Phase::Saving, Event::Failed(_)) => {
                self.unsaved = true;
                if self.stopping { self.stopped() } else { self.wait(Retry::Next) }
            }
            (Phase::Pruning, Event::Done) => {
                self.littered = false;
                self.next()
            }
            (Phase::Pruning, Event::Failed(_)) => {
                self.prune_failed = true;
                self.next()
            }
            _ => self.stay(),
        }
    }

    pub(super) fn report(outcome: Outcome, candidate: Candidate) -> Effect {
        Effect::Report(Report { outcome, generation: Some(candidate.generation), digest: candidate.digest })
    }

    /// A candidate failed before anything was published.
    pub(super) fn abort(mut self, digest: Digest, candidate: Option<Candidate>, failure: Failure) -> Next {
        if self.stopping {
            return self.stopped();
        }
        if failure == Failure::ForGood {
            self.journal.quarantine(digest);
            self.unsaved = true;
            self.ended(digest);
            let generation = candidate.map(|c| c.generation);
            let report = Effect::Report(Report { outcome: Outcome::Quarantined, generation, digest });
            return Self::after(Some(report), self.next());
        }
        self.backoff = Some(digest);
        if self.newest != Some(digest) {
            return self.afresh().next();
        }
        match candidate {
            _ if !self.settled && self.journal.committed.is_some() => self.wait_unsettled(),
            Some(candidate) => self.wait(Retry::Verify(candidate)),
            None => self.wait(Retry::Stage(digest)),
        }
    }
}
