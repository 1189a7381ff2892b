//! Policies: paths with capabilities, `+` for one segment and a trailing `*` for any rest.

use std::collections::BTreeSet;

use regex_lite::Regex;

/// The part of Vault's `default` policy that the fake has endpoints for.
pub const DEFAULT: &str = r#"
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
path "sys/capabilities-self" { capabilities = ["update"] }
path "sys/leases/renew" { capabilities = ["update"] }
path "sys/leases/lookup" { capabilities = ["update"] }
path "cubbyhole/*" { capabilities = ["create", "read", "update", "delete", "list"] }
path "sys/wrapping/wrap" { capabilities = ["update"] }
path "sys/wrapping/lookup" { capabilities = ["update"] }
path "sys/wrapping/unwrap" { capabilities = ["update"] }
"#;

pub struct Rule {
    path: String,
    capabilities: BTreeSet<String>,
}

pub struct Policy {
    pub text: String,
    pub rules: Vec<Rule>,
}

impl Policy {
    /// HCL as operators write it, or the same as JSON. `None` where there is no telling what it says.
    pub fn parse(text: &str) -> Option<Policy> {
        let rules = if text.trim_start().starts_with('{') { json(text)? } else { hcl(text)? };
        Some(Policy { text: text.to_owned(), rules })
    }
}

impl Policy {
    /// True where a rule allows something below this mount (which ends with a slash).
    pub fn touches(&self, mount: &str) -> bool {
        self.rules.iter().any(|rule| {
            let fixed = rule.path.split(['*', '+']).next().unwrap_or_default();
            !rule.capabilities.contains("deny")
                && (fixed.starts_with(mount) || mount.starts_with(fixed) && fixed != rule.path)
        })
    }
}

fn hcl(text: &str) -> Option<Vec<Rule>> {
    let no_comments = Regex::new(r"(?m)#.*$").unwrap().replace_all(text, "");
    let block = Regex::new(r#"path\s+"([^"]*)"\s*\{([^}]*)\}"#).unwrap();
    let grants = Regex::new(r"(?s)capabilities\s*=\s*\[([^\]]*)\]").unwrap();
    let mut rules = Vec::new();
    for found in block.captures_iter(&no_comments) {
        let words = grants.captures(found.get(2)?.as_str())?.get(1)?.as_str();
        let word = |w: &str| w.trim().trim_matches('"').to_owned();
        let capabilities = words.split(',').map(word).filter(|w| !w.is_empty()).collect();
        rules.push(Rule { path: found.get(1)?.as_str().to_owned(), capabilities });
    }
    (no_comments.matches("path").count() == 0 || !rules.is_empty()).then_some(rules)
}

fn json(text: &str) -> Option<Vec<Rule>> {
    let value: serde_json::Value = serde_json::from_str(text).ok()?;
    let mut rules = Vec::new();
    for (path, rule) in value.get("path")?.as_object()? {
        let words = rule.get("capabilities")?.as_array()?;
        let capabilities = words.iter().filter_map(|w| w.as_str().map(str::to_owned)).collect();
        rules.push(Rule { path: path.clone(), capabilities });
    }
    Some(rules)
}

/// What these policies allow on a path: the capabilities of the most specific rule; `deny` alone where it is there, or
/// where nothing matches.
pub fn capabilities<'a>(policies: impl Iterator<Item = &'a Policy>, path: &str) -> Vec<String> {
    let mut best: Option<(Rank, BTreeSet<String>)> = None;
    for rule in policies.flat_map(|policy| &policy.rules).filter(|rule| matches(&rule.path, path)) {
        let rank = rank(&rule.path);
        match &mut best {
            Some((at, capabilities)) if *at == rank => capabilities.extend(rule.capabilities.iter().cloned()),
            Some((at, _)) if *at > rank => {}
            _ => best = Some((rank, rule.capabilities.clone())),
        }
    }
    let found = best.map(|(_, capabilities)| capabilities).unwrap_or_default();
    if found.is_empty() || found.contains("deny") {
        return vec!["deny".to_owned()];
    }
    found.into_iter().collect()
}

fn matches(pattern: &str, path: &str) -> bool {
    let (pattern, any_rest) = match pattern.strip_suffix('*') {
        Some(pattern) => (pattern, true),
        None => (pattern, false),
    };
    if !pattern.contains('+') {
        return if any_rest { path.starts_with(pattern) } else { path == pattern };
    }
    let (want, have): (Vec<_>, Vec<_>) = (pattern.split('/').collect(), path.split('/').collect());
    if have.len() < want.len() || (!any_rest && have.len() != want.len()) {
        return false;
    }
    let last = want.len() - 1;
    let fits = |at: usize, want: &str| {
        want == "+" || have[at] == want || (any_rest && at == last && have[at].starts_with(want))
    };
    want.iter().enumerate().all(|(at, want)| fits(at, want))
}

/// Later is more specific: the first wildcard further right, no trailing `*`, fewer `+`, longer, then by letters.
type Rank = (usize, bool, std::cmp::Reverse<usize>, usize, String);

fn rank(pattern: &str) -> Rank {
    let plus = pattern.split('/').filter(|segment| *segment == "+").count();
    let first = pattern.find('+').into_iter().chain(pattern.ends_with('*').then(|| pattern.len() - 1)).min();
    let first = first.unwrap_or(usize::MAX);
    (first, !pattern.ends_with('*'), std::cmp::Reverse(plus), pattern.len(), pattern.to_owned())
}
