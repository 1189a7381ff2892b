//! Which version of a secret is to be believed. Everything at AWS is eventually consistent: a label may be seen on its
//! new version and the value still be the old one, and the next answer may be older than the last. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The label of the version in use.
pub(super) const CURRENT: &str = "AWSCURRENT";
/// The label of the one before it.
pub(super) const PREVIOUS: &str = "AWSPREVIOUS";
/// Versions left that are remembered. AWS keeps about 100 of a secret.
const LEFT: usize = 16;
/// How often something that was announced and is not there is looked for before that is left to the poll.
pub(super) const LOOKS: u32 = 8;

/// Which version carries which labels, as DescribeSecret has it.
#[derive(Debug, Default)]
pub(super) struct Labels {
    /// `VersionIdsToStages`. Versions without labels are not in it.
    pub of: BTreeMap<String, Vec<String>>,
    /// Whether the first region said so. Another has a replica, which may lag for long: it shows no way back.
    pub primary: bool,
}

/// The version that carries a label.
pub(super) fn labelled<'a>(labels: &'a Labels, stage: &str) -> Option<&'a str> {
    labels.of.iter().find(|(_, stages)| stages.iter().any(|s| s == stage)).map(|(version, _)| version.as_str())
}

/// What is known of one label of one secret.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lineage {
    /// The version taken last.
    pub current: Option<String>,
    /// When that was made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Versions that were taken before, the newest last.
    #[serde(default, skip_serializing_if = "VecDeque::is_empty")]
    pub left: VecDeque<String>,
    /// The version that an event says carries the label.
    #[serde(skip)]
    pub announced: Option<String>,
    /// A version left that the label was seen on again, where nothing proves that it was moved there.
    #[serde(skip)]
    returning: Option<String>,
    /// Looks in a row at which both the labels and the value were those of `returning`.
    #[serde(skip)]
    agreed: u32,
    /// Looks in a row that brought something not to be believed.
    #[serde(skip)]
    looks: u32,
}

/// What to do with a version that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Belief {
    /// It is the one in use.
    Same,
    /// It is the new one.
    New,
    /// Not to be believed yet: what is in use stays, and it is looked for again after this (None: at the poll).
    Unsettled(Option<Duration>),
}

impl Lineage {
    /// Whether `version` was in use and another took its place, or is older than what is in use.
    pub fn is_older(&self, version: &str, created: Option<Timestamp>) -> bool {
        let older = created.zip(self.created).is_some_and(|(created, current)| created < current);
        self.current.as_deref() != Some(version) && (older || self.has_left(version))
    }

    fn has_left(&self, version: &str) -> bool {
        self.left.iter().any(|left| left == version)
    }

    /// Weighs the version that came back for `stage`; `seen` is what DescribeSecret said just before, if it was asked.
    pub fn weigh(&mut self, version: &str, created: Option<Timestamp>, stage: &str, seen: Option<&Labels>) -> Belief {
        let expected = seen.and_then(|labels| labelled(labels, stage));
        if expected.is_some_and(|expected| expected != version) {
            return self.unsettled();
        }
        // What was announced is waited for, whatever else comes meanwhile, but not for ever.
        if self.announced.as_deref().is_some_and(|announced| announced != version) {
            if self.looks < LOOKS {
                return self.unsettled();
            }
            self.announced = None;
        }
        if self.current.as_deref() == Some(version) {
            self.settled();
            return Belief::Same;
        }
        // An event may be late, or nobody's: it proves no way back.
        if self.is_older(version, created) && !self.moved_back(version, stage, seen) {
            let same = self.returning.as_deref() == Some(version);
            // A look without labels that could prove it neither counts nor breaks the row.
            self.agreed = if same { self.agreed } else { 0 } + u32::from(seen.is_some_and(|labels| labels.primary));
            self.returning = Some(version.to_owned());
            return self.unsettled();
        }
        Belief::New
    }

    /// Whether the label went back to a version left, and not merely this answer. For AWSCURRENT the labels prove it: what is
    /// in use carries AWSPREVIOUS only since the label was taken from it. Where that moved on as well (AWSCURRENT was moved
    /// twice since the last look), it is that nothing else was seen for minutes. Other labels prove nothing, so they must
    /// be seen there twice. Only what the first region says counts.
    fn moved_back(&self, version: &str, stage: &str, seen: Option<&Labels>) -> bool {
        let Some(labels) = seen.filter(|labels| labels.primary) else { return false };
        match stage {
            CURRENT => {
                let previous = labelled(labels, PREVIOUS);
                let proved = self.current.as_deref().is_some_and(|current| previous == Some(current));
                proved || (self.agreed >= LOOKS && self.returning.as_deref() == Some(version))
            }
            _ => self.agreed > 0 && self.returning.as_deref() == Some(version),
        }
    }

    /// The version is handed out. Answers whether that is news.
    pub fn take(&mut self, version: &str, created: Option<Timestamp>) -> bool {
        self.settled();
        self.created = created.or(self.created.filter(|_| self.current.as_deref() == Some(version)));
        if self.current.as_deref() == Some(version) {
            return false;
        }
        self.left.retain(|left| left != version);
        if let Some(before) = self.current.replace(version.to_owned()) {
            self.left.push_back(before);
            if self.left.len() > LEFT {
                self.left.pop_front();
            }
        }
        true
    }

    /// An event says that the label is on `version` now. False: that is no news. One that was left is looked at, but not
    /// waited for: the event may have been told late.
    pub fn announce(&mut self, version: &str) -> bool {
        if self.current.as_deref() == Some(version) {
            return false;
        }
        let another = !self.has_left(version) && self.announced.as_deref() != Some(version);
        if another {
            self.announced = Some(version.to_owned());
        }
        // What is told twice is not waited for longer.
        if another || self.announced.is_none() {
            self.looks = 0;
        }
        true
    }

    /// How often in a row nothing to be believed came.
    pub fn looks(&self) -> u32 {
        self.looks
    }

    fn settled(&mut self) {
        (self.announced, self.returning, self.agreed, self.looks) = (None, None, 0, 0);
    }

    fn unsettled(&mut self) -> Belief {
        self.looks = self.looks.saturating_add(1);
        if self.looks > LOOKS {
            return Belief::Unsettled(None);
        }
        let wait = Duration::from_secs(1 << (self.looks - 1).min(5));
        Belief::Unsettled(Some(wait))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(of: &[(&str, &[&str])]) -> Labels {
        let of = of.iter();
        let of = of.map(|(version, stages)| ((*version).into(), stages.iter().map(ToString::to_string).collect()));
        Labels { of: of.collect(), primary: true }
    }

    fn at(current: &str, left: &[&str]) -> Lineage {
        Lineage {
            current: Some(current.into()),
            left: left.iter().map(ToString::to_string).collect(),
            ..Lineage::default()
        }
    }

    #[test]
    fn an_older_answer_is_never_taken_for_a_change() {
        let mut known = at("b", &["a"]);
        assert_eq!(known.weigh("a", None, CURRENT, None), Belief::Unsettled(Some(Duration::from_secs(1))));
        let stale = labels(&[("a", &[CURRENT]), ("z", &[PREVIOUS])]);
        assert_eq!(known.weigh("a", None, CURRENT, Some(&stale)), Belief::Unsettled(Some(Duration::from_secs(2))));
        assert_eq!(known.weigh("b", None, CURRENT, None), Belief::Same);
        assert_eq!(
            known.weigh("a", None, CURRENT, None),
            Belief::Unsettled(Some(Duration::from_secs(1))),
            "counted anew"
        );
    }

    #[test]
    fn a_label_that_was_moved_back_is_followed_once_the_labels_prove_it() {
        let mut known = at("b", &["a"]);
        let moved = labels(&[("a", &[CURRENT]), ("b", &[PREVIOUS])]);
        assert_eq!(known.weigh("a", None, CURRENT, Some(&moved)), Belief::New);
        assert!(known.take("a", None));
        assert_eq!((known.current.as_deref(), known.left.as_slices().0), (Some("a"), &["b".to_owned()][..]));
    }

    #[test]
    fn a_label_that_was_moved_twice_is_followed_when_nothing_else_was_seen_for_long() {
        let mut known = at("b", &["a"]);
        let moved = labels(&[("a", &[CURRENT]), ("c", &[PREVIOUS])]);
        let looks = |known: &mut Lineage, many: u32| {
            (0..many).all(|_| matches!(known.weigh("a", None, CURRENT, Some(&moved)), Belief::Unsettled(_)))
        };
        assert!(looks(&mut known, LOOKS - 1));
        assert_eq!(known.weigh("b", None, CURRENT, None), Belief::Same, "one answer breaks the row");
        assert!(looks(&mut known, LOOKS));
        let moved = labels(&[("a", &[CURRENT]), ("c", &[PREVIOUS])]);
        assert_eq!(known.weigh("a", None, CURRENT, Some(&moved)), Belief::New);
        let mut unseen = at("b", &["a"]);
        (0..100)
            .for_each(|_| assert!(matches!(unseen.weigh("a", None, CURRENT, None), Belief::Unsettled(_)), "no labels"));
    }

    #[test]
    fn a_label_of_ones_own_must_be_seen_back_twice() {
        let mut known = at("b", &["a"]);
        let moved = labels(&[("a", &["blue"]), ("b", &[CURRENT])]);
        assert!(matches!(known.weigh("a", None, "blue", Some(&moved)), Belief::Unsettled(Some(_))));
        assert_eq!(known.weigh("a", None, "blue", Some(&moved)), Belief::New);
    }

    #[test]
    fn the_labels_of_another_region_than_the_first_prove_no_way_back() {
        for stage in [CURRENT, "blue"] {
            let mut known = at("b", &["a"]);
            let lagging = Labels { primary: false, ..labels(&[("a", &[stage]), ("b", &[PREVIOUS])]) };
            (0..100).for_each(|_| {
                assert!(matches!(known.weigh("a", None, stage, Some(&lagging)), Belief::Unsettled(_)), "{stage}");
            });
            assert_eq!(known.agreed, 0, "{stage}: nor does it count as a look that agrees");
            assert_eq!(known.weigh("c", None, stage, None), Belief::New, "{stage}: forward it may go");
        }
    }

    #[test]
    fn a_value_of_another_version_than_the_one_announced_is_not_taken() {
        let mut known = at("a", &[]);
        let ahead = labels(&[("b", &[CURRENT]), ("a", &[PREVIOUS])]);
        assert!(matches!(known.weigh("a", None, CURRENT, Some(&ahead)), Belief::Unsettled(Some(_))));
        assert!(matches!(known.weigh("c", None, CURRENT, Some(&ahead)), Belief::Unsettled(Some(_))));
        assert_eq!(known.weigh("b", None, CURRENT, Some(&ahead)), Belief::New);
    }

    #[test]
    fn an_event_is_waited_for_and_given_up_after_a_while_and_old_ones_say_nothing() {
        let mut known = at("b", &["a"]);
        assert!(!known.announce("b"));
        assert!(known.announce("a"), "looked at");
        assert_eq!(known.weigh("b", None, CURRENT, None), Belief::Same, "not waited for");
        assert!(known.announce("c"));
        let mut waits = (0..LOOKS).map(|_| known.weigh("b", None, CURRENT, None));
        assert!(waits.all(|belief| matches!(belief, Belief::Unsettled(Some(_)))));
        assert_eq!(known.weigh("b", None, CURRENT, None), Belief::Same);
        assert!(known.announce("c"));
        assert_eq!(known.weigh("c", None, CURRENT, None), Belief::New);
        known.take("c", None);
        assert_eq!(known.weigh("c", None, CURRENT, None), Belief::Same);
    }

    #[test]
    fn another_version_than_the_announced_is_taken_only_when_that_does_not_come_and_never_one_that_was_left() {
        let unsettled = |belief: &Belief| matches!(belief, Belief::Unsettled(Some(_)));
        let mut known = at("b", &["a"]);
        assert!(known.announce("d"));
        assert!(unsettled(&known.weigh("c", None, CURRENT, None)), "on the way to d, perhaps");
        assert_eq!(known.weigh("d", None, CURRENT, None), Belief::New);
        let mut known = at("b", &["a"]);
        assert!(known.announce("d"));
        assert!((0..LOOKS).all(|_| unsettled(&known.weigh("c", None, CURRENT, None))));
        assert_eq!(known.weigh("c", None, CURRENT, None), Belief::New, "d has not come");
        let mut known = at("b", &["a"]);
        assert!(known.announce("d"));
        assert!(unsettled(&known.weigh("c", None, CURRENT, None)) && known.announce("d") && known.announce("a"));
        assert_eq!(known.looks(), 1, "told twice and late, and waited for no longer");
        (0..100).for_each(|_| assert!(matches!(known.weigh("a", None, CURRENT, None), Belief::Unsettled(_))));
    }

    #[test]
    fn a_version_older_than_the_one_in_use_needs_the_labels_to_prove_it_and_no_event_does() {
        let t = |second| Timestamp::from_second(second).ok();
        let mut known = Lineage::default();
        assert_eq!(known.weigh("b", t(20), CURRENT, None), Belief::New);
        known.take("b", t(20));
        assert!(matches!(known.weigh("a", t(10), CURRENT, None), Belief::Unsettled(Some(_))), "never seen, but older");
        let moved = labels(&[("a", &[CURRENT]), ("b", &[PREVIOUS])]);
        assert_eq!(known.weigh("a", t(10), CURRENT, Some(&moved)), Belief::New);
        assert_eq!(known.weigh("c", t(30), CURRENT, None), Belief::New);
        assert!(known.announce("a"));
        assert!(matches!(known.weigh("a", t(10), CURRENT, None), Belief::Unsettled(Some(_))), "announced, and older");
        assert_eq!(known.weigh("a", t(10), CURRENT, Some(&moved)), Belief::New);
    }

    #[test]
    fn only_so_many_versions_are_remembered() {
        let mut known = Lineage::default();
        assert!(known.take("v0", None) && !known.take("v0", None));
        (1..40).for_each(|n| assert!(known.take(&format!("v{n}"), None)));
        assert_eq!(known.left.len(), LEFT);
        assert!(known.has_left("v38") && !known.has_left("v39") && !known.has_left("v0"));
    }
}
