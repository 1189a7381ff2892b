//! Which version of a secret is in use, and which was before while its overlap lasts.
//!
//! A version is in use once a snapshot with it was emitted. So a value that came and went within one settle never becomes
//! `previous`: what the world still holds is the one in use before. Neither does one that every target refused: while it
//! is refused no overlap ends, for the targets stand on the version before; once it is taken after all, that begins anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use crate::config::model::TargetName;
use crate::secret::{Reading, Version};

/// Both clocks at one moment. Ends are kept on the wall clock, so that they survive a restart, and counted down on the
/// monotonic one, so that a step of the wall clock neither stretches nor cuts what is running.
#[derive(Clone, Copy, Debug)]
pub(super) struct Now {
    pub(super) wall: Timestamp,
    pub(super) mono: Instant,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Overlap {
    pub(super) in_use: Option<InUse>,
    pub(super) previous: Option<Previous>,
    /// What both were before `in_use` came: it is that again where no target takes `in_use`. Not remembered over a restart.
    pub(super) before: Option<(InUse, Option<Previous>)>,
}

#[derive(Clone, Debug)]
pub(super) struct InUse {
    pub(super) version: Version,
    /// None: remembered without its values.
    pub(super) reading: Option<Arc<Reading>>,
    pub(super) changed_at: Timestamp,
    /// The store keeps old versions itself, so their values need not be remembered.
    pub(super) kept_by_store: bool,
    /// A target's rotation to it was quarantined or rolled back: see [`InUse::is_refused`].
    pub(super) refused: bool,
    /// The targets that stand on it, as they told.
    pub(super) users: BTreeSet<TargetName>,
}

#[derive(Clone, Debug)]
pub(super) struct Previous {
    pub(super) version: Version,
    /// None: remembered without its values, until the store gives them.
    pub(super) reading: Option<Arc<Reading>>,
    pub(super) until: Timestamp,
    pub(super) ends: Instant,
}

impl InUse {
    /// Whether a target refused it and none stands on it.
    fn is_refused(&self) -> bool {
        self.refused && self.users.is_empty()
    }
}

impl Overlap {
    fn is_refused(&self) -> bool {
        self.in_use.as_ref().is_some_and(InUse::is_refused)
    }

    /// When `previous` ends. None: there is none, or it does not end while what is in use is refused.
    pub(super) fn ends(&self) -> Option<Instant> {
        self.previous.as_ref().filter(|_| !self.is_refused()).map(|previous| previous.ends)
    }

    /// The previous reading, if there is one to show.
    pub(super) fn shown(&self) -> Option<&Arc<Reading>> {
        self.previous.as_ref()?.reading.as_ref()
    }

    /// `current` is about to be emitted. `kept` is the version before it, where the store keeps that itself.
    /// Answers whether anything that is remembered changed.
    pub(super) fn take_up(
        &mut self,
        current: &Arc<Reading>,
        kept: Option<&Arc<Reading>>,
        overlap: Duration,
        changed_at: Timestamp,
        now: Now,
    ) -> bool {
        let refused = |in_use: &InUse| in_use.is_refused() && in_use.version != current.version;
        let was_refused = self.in_use.as_ref().is_some_and(refused);
        if was_refused && let Some((in_use, previous)) = self.before.take() {
            self.in_use = Some(in_use);
            // A lease that nothing showed meanwhile may have been ended.
            let lasts = |p: &Previous| p.ends > now.mono && p.reading.as_ref().is_none_or(|r| r.lease.is_none());
            self.previous = previous.filter(lasts);
        }
        let before = self.in_use.take();
        let same = before.as_ref().is_some_and(|before| before.version == current.version);
        let mut changed = !same || was_refused;
        let before_use = before.as_ref().filter(|_| same).map(|before| (before.refused, before.users.clone()));
        let (refused, users) = before_use.unwrap_or_default();
        match before {
            Some(before) if same => {
                if let (Some(previous), Some(kept)) = (&mut self.previous, kept)
                    && previous.reading.is_none()
                {
                    previous.version = kept.version.clone();
                    previous.reading = Some(Arc::clone(kept));
                }
                changed |= before.reading.is_none() && !overlap.is_zero();
            }
            // No target ever stood on it, and what was before is remembered as `previous` alone: its overlap begins now.
            Some(before) if before.is_refused() => {
                self.previous = self.previous.take().filter(|previous| previous.version != current.version);
                self.begin_anew(overlap, now);
            }
            Some(before) => {
                self.before = Some((before.clone(), self.previous.clone())).filter(|_| !overlap.is_zero());
                let previous = match before.reading.or_else(|| kept.cloned()) {
                    Some(reading) => Previous::new(reading, overlap, now),
                    // The store may give its values later.
                    None => Previous::unread(before.version, overlap, now),
                };
                self.previous = (!overlap.is_zero()).then_some(previous);
            }
            None => self.previous = kept.and_then(|kept| Previous::since_created(kept, current, overlap, now)),
        }
        self.in_use = Some(InUse {
            version: current.version.clone(),
            reading: Some(Arc::clone(current)),
            changed_at,
            kept_by_store: kept.is_some(),
            refused,
            users,
        });
        changed
    }

    /// What was taken up is withdrawn: `to`, which was in use before, is again.
    pub(super) fn go_back(&mut self, to: &Arc<Reading>, now: Now) {
        self.previous = self.previous.take().filter(|previous| previous.version != to.version);
        if let Some(in_use) = &mut self.in_use
            && in_use.version != to.version
        {
            *in_use = InUse {
                version: to.version.clone(),
                reading: Some(Arc::clone(to)),
                changed_at: now.wall,
                kept_by_store: in_use.kept_by_store,
                refused: false,
                users: BTreeSet::new(),
            };
        }
    }

    /// A target tells whether it stands on this version, and whether it refused it for good. The first that takes what
    /// was refused begins the overlap anew. Answers whether anything that is remembered changed.
    pub(super) fn standing(
        &mut self,
        target: &TargetName,
        version: &Version,
        (stands, refused): (bool, bool),
        overlap: Duration,
        now: Now,
    ) -> bool {
        let was_refused = self.is_refused();
        let Some(in_use) = self.in_use.as_mut().filter(|in_use| in_use.version == *version) else { return false };
        let mut changed = if stands { in_use.users.insert(target.clone()) } else { in_use.users.remove(target) };
        in_use.refused |= refused && !stands;
        changed |= was_refused != in_use.is_refused();
        if was_refused && stands {
            self.begin_anew(overlap, now);
        }
        changed
    }

    fn begin_anew(&mut self, overlap: Duration, now: Now) {
        let previous = self.previous.take().filter(|_| !overlap.is_zero());
        self.previous = previous.map(|previous| match previous.reading {
            Some(reading) => Previous::new(reading, overlap, now),
            None => Previous::unread(previous.version, overlap, now),
        });
    }

    /// These targets use the secret: others, which were configured away, stand on nothing.
    pub(super) fn used_by(&mut self, targets: &BTreeSet<TargetName>) {
        if let Some(in_use) = &mut self.in_use {
            in_use.users.retain(|target| targets.contains(target));
        }
    }

    /// Applies an overlap that was configured anew, and drops what has ended. Answers whether `previous` changed.
    pub(super) fn bound(&mut self, overlap: Duration, now: Now) -> bool {
        let refused = self.is_refused();
        if overlap.is_zero() {
            self.before = None;
        }
        let Some(previous) = &mut self.previous else { return false };
        let before = previous.until;
        previous.ends = previous.ends.min(now.mono + overlap);
        previous.until = previous.until.min(later(now.wall, overlap));
        let changed = previous.until != before;
        if overlap.is_zero() || (previous.ends <= now.mono && !refused) {
            self.previous = None;
            return true;
        }
        changed
    }
}

impl Previous {
    fn new(reading: Arc<Reading>, overlap: Duration, now: Now) -> Self {
        Self {
            version: reading.version.clone(),
            reading: Some(reading),
            until: later(now.wall, overlap),
            ends: now.mono + overlap,
        }
    }

    fn unread(version: Version, overlap: Duration, now: Now) -> Self {
        Self { version, reading: None, until: later(now.wall, overlap), ends: now.mono + overlap }
    }

    /// One that was remembered to last until `until`: never longer than a whole overlap from now, whatever the wall clock
    /// did. None: it is over (a wall clock that was set forwards ends it early).
    pub(super) fn remembered(
        version: Version,
        reading: Option<Arc<Reading>>,
        until: Timestamp,
        overlap: Duration,
        now: Now,
    ) -> Option<Self> {
        let left = left(until, now.wall).min(overlap);
        (!left.is_zero()).then(|| Self { version, reading, until: later(now.wall, left), ends: now.mono + left })
    }

    /// The first time this secret is seen, the overlap counts from when the store says that the version was made.
    fn since_created(kept: &Arc<Reading>, current: &Reading, overlap: Duration, now: Now) -> Option<Self> {
        let until = later(current.created_at?, overlap);
        Self::remembered(kept.version.clone(), Some(Arc::clone(kept)), until, overlap, now)
    }
}

/// A wall time so much later; the end of time where it would be beyond.
pub(super) fn later(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by).ok().and_then(|by| at.checked_add(by).ok()).unwrap_or(Timestamp::MAX)
}

/// How long from `now` to `at`; nothing where that is past.
pub(super) fn left(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}
