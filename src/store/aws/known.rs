//! What the store knows of its secrets. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::gather::Ask;
use super::lineage::Lineage;
use super::rotations::Allowance;

/// What is known of one secret.
#[derive(Default)]
pub(super) struct Known {
    pub arn: Option<String>,
    pub name: Option<String>,
    /// Its own key, where it is not the account's default one.
    pub kms_key: Option<String>,
    /// Its replicas' keys, by region.
    pub replicas: BTreeMap<String, Option<String>>,
    pub next_rotation: Option<Timestamp>,
    pub described: Option<Timestamp>,
    pub describe_denied: Option<Timestamp>,
    /// It was in a batch that failed as a whole, and was not read since: it is asked for alone.
    pub apart: bool,
    /// When it was asked for its next rotation in vain.
    pub describe_failed: Option<Timestamp>,
    /// Whether its value could be read the last time; None: it was neither read nor denied.
    pub readable: Option<bool>,
}

/// All that the store knows.
#[derive(Default)]
pub(super) struct Memory {
    pub secrets: BTreeMap<String, Known>,
    /// By secret, and by label or `version:` and its id.
    pub lineages: BTreeMap<(String, String), Box<Lineage>>,
    pub batch_denied: Option<Timestamp>,
    pub allowance: Allowance,
    /// Something changed that is to be kept.
    pub changed: bool,
    /// Moves with every round that changed something.
    pub revision: u64,
}

impl Known {
    /// The keys by region; None is the account's default one there.
    pub fn keys(&self) -> BTreeMap<String, Option<String>> {
        let own = self.arn.as_deref().and_then(|arn| arn.split(':').nth(3));
        let own = own.map(|region| (region.to_owned(), self.kms_key.clone()));
        self.replicas.clone().into_iter().chain(own).collect()
    }
}

impl Ask {
    /// Under what its lineage is kept.
    pub fn lineage(&self) -> String {
        self.version.as_ref().map_or_else(|| self.stage.clone(), |version| format!("version:{version}"))
    }
}

impl Memory {
    /// What is known of what an ask asks for.
    pub fn lineage(&self, ask: &Ask) -> Option<&Lineage> {
        self.lineages.get(&(ask.id.clone(), ask.lineage())).map(|lineage| &**lineage)
    }

    /// The same, to be changed; made where it is not there.
    pub fn lineage_mut(&mut self, ask: &Ask) -> &mut Lineage {
        self.lineages.entry((ask.id.clone(), ask.lineage())).or_default()
    }
}
