//! What the next start is to know: which versions were left, and what is denied. No secret is in it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::known::Memory;
use super::lineage::Lineage;
use crate::config::model::AwsStore as Config;
use crate::secret::SecretBytes;

#[derive(Serialize, Deserialize)]
struct Saved<T, L> {
    /// Whose it is.
    of: T,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch_denied: Option<Timestamp>,
    lineages: Vec<Kept<T, L>>,
}

#[derive(Serialize, Deserialize)]
struct Kept<T, L> {
    id: T,
    /// The label, or `version:` and its id.
    of: T,
    lineage: L,
}

/// What tells one account and region from another, as far as the config says.
pub(super) fn of(config: &Config) -> String {
    let parts = [&config.region, &config.profile, &config.role_arn, &config.endpoint_url];
    let parts = parts.map(|part| part.as_deref().unwrap_or("-"));
    format!("{} {}", parts.join(" "), config.regions.join(","))
}

pub(super) fn save(of: &str, memory: &Memory) -> Option<SecretBytes> {
    if memory.revision == 0 {
        return None;
    }
    let lineages =
        memory.lineages.iter().map(|((id, of), lineage)| Kept { id: id.as_str(), of: of.as_str(), lineage }).collect();
    let saved = Saved { of, batch_denied: memory.batch_denied, lineages };
    serde_json::to_vec(&saved).ok().map(SecretBytes::new)
}

/// Takes over what an earlier life of the same store knew; anything else is ignored.
pub(super) fn resume(of: &str, session: &SecretBytes, memory: &mut Memory) {
    let saved = serde_json::from_slice::<Saved<String, Box<Lineage>>>(session.expose());
    let Some(saved) = saved.ok().filter(|saved| saved.of == of) else { return };
    memory.batch_denied = saved.batch_denied;
    memory.lineages.extend(saved.lineages.into_iter().map(|kept| ((kept.id, kept.of), kept.lineage)));
    memory.revision = memory.revision.max(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_left_is_known_to_the_next_life_of_the_same_store_only() {
        let mut lineage = Lineage::default();
        lineage.take("a", None);
        lineage.take("b", Timestamp::from_second(7).ok());
        let of = ("x".to_owned(), "AWSCURRENT".to_owned());
        let before =
            Memory { lineages: [(of.clone(), Box::new(lineage.clone()))].into(), revision: 2, ..Memory::default() };
        let saved = save("here", &before).expect("something to keep");
        let mut after = Memory::default();
        resume("there", &saved, &mut after);
        assert!(after.lineages.is_empty() && save("here", &after).is_none());
        resume("here", &saved, &mut after);
        assert_eq!(*after.lineages[&of], lineage);
        resume("here", &SecretBytes::from("{"), &mut after);
    }
}
