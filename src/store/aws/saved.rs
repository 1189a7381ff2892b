//! What the next start is to know: which versions were left, and what is denied. No secret is in it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::known::Memory;
use super::lineage::Lineage;
use crate::config::model::AwsStore as Config;
use crate::secret::SecretBytes;

#[derive(Serialize, Deserialize)]
struct Saved {
    /// Whose it is.
    of: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch_denied: Option<Timestamp>,
    secrets: BTreeMap<String, BTreeMap<String, Lineage>>,
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
    let known = memory.secrets.iter().filter(|(_, known)| !known.lineages.is_empty());
    let secrets = known.map(|(id, known)| (id.clone(), known.lineages.clone())).collect();
    let saved = Saved { of: of.to_owned(), batch_denied: memory.batch_denied, secrets };
    serde_json::to_vec(&saved).ok().map(SecretBytes::new)
}

/// Takes over what an earlier life of the same store knew; anything else is ignored.
pub(super) fn resume(of: &str, session: &SecretBytes, memory: &mut Memory) {
    let Some(saved) = serde_json::from_slice::<Saved>(session.expose()).ok().filter(|saved| saved.of == of) else {
        return;
    };
    memory.batch_denied = saved.batch_denied;
    for (id, lineages) in saved.secrets {
        memory.secrets.entry(id).or_default().lineages = lineages;
    }
    memory.revision = memory.revision.max(1);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::aws::known::Known;

    #[test]
    fn what_was_left_is_known_to_the_next_life_of_the_same_store_only() {
        let mut lineage = Lineage::default();
        lineage.take("a", None);
        lineage.take("b", Timestamp::from_second(7).ok());
        let known = Known { lineages: [("AWSCURRENT".to_owned(), lineage.clone())].into(), ..Known::default() };
        let before = Memory { secrets: [("x".to_owned(), known)].into(), batch_denied: None, revision: 2 };
        let saved = save("here", &before).expect("something to keep");
        let mut after = Memory::default();
        resume("there", &saved, &mut after);
        assert!(after.secrets.is_empty() && save("here", &after).is_none());
        resume("here", &saved, &mut after);
        assert_eq!(after.secrets["x"].lineages["AWSCURRENT"], lineage);
        resume("here", &SecretBytes::from("{"), &mut after);
    }
}
