//! Whether an output is what its format says, and its structure without its values: keys, lengths, depth.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::envfile::{self, Token};
use crate::config::model::Format;

/// A document's structure. Holds keys, no scalar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Skeleton {
    Scalar,
    List(Vec<Skeleton>),
    Map(BTreeMap<String, Skeleton>),
    /// Variables of an environment file in order, each with whether it has a value (1 or 0); for dotenv, last, how many
    /// variables the values expand.
    Variables(Vec<(String, usize)>),
    Script(Vec<Token>),
}

/// Where an output is not what its format says; 0:0 where its parser does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub line: usize,
    pub column: usize,
    pub duplicate: bool,
}

impl Skeleton {
    /// The structure of an output; None for `text`, which has none.
    ///
    /// # Errors
    /// Where it does not parse. The parser's own words are dropped: they quote content.
    pub fn of(format: Format, text: &str) -> Result<Option<Self>, Unreadable> {
        let at_line = |line| Unreadable { line, column: 1, duplicate: false };
        let variables = |found: Vec<envfile::Variable>| -> Vec<(String, usize)> {
            found.into_iter().map(|v| (v.name, usize::from(v.value.is_some()))).collect()
        };
        Ok(Some(match format {
            Format::Text => return Ok(None),
            Format::Yaml => Self::yaml(text)?,
            Format::Json => Self::json(text)?,
            Format::Toml => toml::from_str::<Self>(text).map_err(|e| {
                let (line, column) = e.span().map_or((0, 0), |span| super::error::line_col(text, span.start));
                Unreadable { line, column, duplicate: e.message().contains("duplicate key") }
            })?,
            Format::SystemdEnv => Self::Variables(variables(envfile::systemd(text).map_err(at_line)?)),
            Format::DockerEnv => Self::Variables(variables(envfile::docker(text).map_err(at_line)?)),
            Format::Dotenv => {
                let mut found = variables(envfile::dotenv(text).map_err(at_line)?);
                found.push(("${}".to_string(), envfile::expansions(text)));
                Self::Variables(found)
            }
            Format::Shell => Self::Script(envfile::shell(text).map_err(at_line)?),
        }))
    }

    fn yaml(text: &str) -> Result<Self, Unreadable> {
        let documents = serde_yaml::from_multiple_with_options::<Self>(text, yaml_options()).map_err(|e| {
            let at = e.location();
            let number = |n: u64| usize::try_from(n).unwrap_or(0);
            Unreadable {
                line: at.map_or(0, |l| number(l.line())),
                column: at.map_or(0, |l| number(l.column())),
                duplicate: e.to_string().contains("duplicate"),
            }
        })?;
        Ok(Self::List(documents))
    }

    fn json(text: &str) -> Result<Self, Unreadable> {
        serde_json::from_str::<Self>(text).map_err(|e| Unreadable {
            line: e.line(),
            column: e.column(),
            duplicate: e.to_string().starts_with(DUPLICATE),
        })
    }

    /// Where two structures first differ: keys that both have, so none that a value made.
    pub fn difference(&self, other: &Self) -> Option<String> {
        if self == other {
            return None;
        }
        let mut path = String::new();
        self.descend(other, &mut path);
        Some(if path.is_empty() { "at the top".to_string() } else { format!("under `{path}`") })
    }

    fn descend(&self, other: &Self, path: &mut String) {
        match (self, other) {
            (Self::Map(a), Self::Map(b)) if a.keys().eq(b.keys()) => {
                if let Some((key, inner)) = a.iter().find(|(key, inner)| b.get(*key) != Some(inner)) {
                    path.push('.');
                    path.push_str(key);
                    if let Some(other) = b.get(key) {
                        inner.descend(other, path);
                    }
                }
            }
            (Self::List(a), Self::List(b)) if a.len() == b.len() => {
                if let Some((i, (a, b))) = a.iter().zip(b).enumerate().find(|(_, (a, b))| a != b) {
                    // The outermost list is the file's documents: named only where there are several.
                    if !path.is_empty() || other_documents(self) {
                        path.push_str(&format!("[{i}]"));
                    }
                    a.descend(b, path);
                }
            }
            (Self::Variables(a), Self::Variables(b)) => {
                let before = a.iter().zip(b).take_while(|(a, b)| a == b).last();
                if let Some(((name, _), _)) = before {
                    path.push_str(name);
                }
            }
            _ => {}
        }
    }
}

fn other_documents(list: &Skeleton) -> bool {
    matches!(list, Skeleton::List(list) if list.len() > 1)
}

/// Duplicate keys refused, errors without the text around them, room for large files.
pub(super) fn yaml_options() -> serde_yaml::Options {
    serde_yaml::options! {
        with_snippet: false,
        duplicate_keys: serde_yaml::options::DuplicateKeyPolicy::Error,
        budget: serde_yaml::budget! { max_nodes: 2_000_000, max_events: 8_000_000 },
    }
}

const DUPLICATE: &str = "the same key twice";

impl<'de> Deserialize<'de> for Skeleton {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SkeletonVisitor)
    }
}

struct SkeletonVisitor;

macro_rules! scalars {
    ($($visit:ident: $kind:ty),*) => {
        $(fn $visit<E: de::Error>(self, _: $kind) -> Result<Skeleton, E> { Ok(Skeleton::Scalar) })*
    };
}

impl<'de> Visitor<'de> for SkeletonVisitor {
    type Value = Skeleton;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    scalars!(visit_bool: bool, visit_i64: i64, visit_i128: i128, visit_u64: u64, visit_u128: u128, visit_f64: f64,
        visit_str: &str, visit_bytes: &[u8]);

    fn visit_none<E: de::Error>(self) -> Result<Skeleton, E> {
        Ok(Skeleton::Scalar)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Skeleton, E> {
        Ok(Skeleton::Scalar)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Skeleton, D::Error> {
        Deserialize::deserialize(deserializer)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, deserializer: D) -> Result<Skeleton, D::Error> {
        Deserialize::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Skeleton, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = access.next_element()? {
            list.push(item);
        }
        Ok(Skeleton::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Skeleton, A::Error> {
        let mut map = BTreeMap::new();
        while let Some(Key(key)) = access.next_key()? {
            // The toml crate hands a date over as a map of one private key.
            if key == "$__toml_private_datetime" {
                access.next_value::<de::IgnoredAny>()?;
                return Ok(Skeleton::Scalar);
            }
            if map.insert(key, access.next_value()?).is_some() {
                return Err(de::Error::custom(DUPLICATE));
            }
        }
        Ok(Skeleton::Map(map))
    }
}

/// A map's key: a text, or (YAML) another scalar as text.
struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(KeyVisitor)
    }
}

struct KeyVisitor;

macro_rules! keys {
    ($($visit:ident: $kind:ty),*) => {
        $(fn $visit<E: de::Error>(self, key: $kind) -> Result<Key, E> { Ok(Key(key.to_string())) })*
    };
}

impl<'de> Visitor<'de> for KeyVisitor {
    type Value = Key;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a scalar key")
    }

    keys!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E: de::Error>(self) -> Result<Key, E> {
        Ok(Key("null".to_string()))
    }

    fn visit_none<E: de::Error>(self) -> Result<Key, E> {
        Ok(Key("null".to_string()))
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Key, D::Error> {
        Deserialize::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(format: Format, text: &str) -> Skeleton {
        Skeleton::of(format, text).unwrap().unwrap()
    }

    #[test]
    fn scalars_do_not_count_and_keys_do() {
        assert_eq!(of(Format::Yaml, "a: 1\nb: [x, 2]"), of(Format::Yaml, "a: 'x'\nb: [null, 'y']"));
        assert_ne!(of(Format::Yaml, "a: 1"), of(Format::Yaml, "a: {b: 1}"));
        assert_ne!(of(Format::Yaml, "a: 1"), of(Format::Yaml, "a: 1\n---\nb: 1"));
        assert_eq!(of(Format::Toml, "a = 2020-01-01\n"), of(Format::Toml, "a = 'x'\n"));
        assert_ne!(of(Format::SystemdEnv, "A=1\n"), of(Format::SystemdEnv, "A=1\nA=2\n"));
        assert_ne!(of(Format::Shell, "A=x\n"), of(Format::Shell, "A=$x\n"));
        assert_ne!(of(Format::Shell, "A='x'\n"), of(Format::Shell, "A='x';y''\n"));
        assert_ne!(of(Format::Dotenv, "A=x\n"), of(Format::Dotenv, "A=${x}\n"));
        assert_eq!(of(Format::Yaml, "1: a\ntrue: b\n"), of(Format::Yaml, "1: c\ntrue: d\n"));
    }

    #[test]
    fn a_key_given_twice_is_refused_in_every_format() {
        for (format, text) in [
            (Format::Yaml, "a: 1\nb:\n  c: 1\n  c: 2\n"),
            (Format::Json, "{\"a\": 1,\n \"a\": 2}"),
            (Format::Toml, "a = 1\na = 2\n"),
        ] {
            let error = Skeleton::of(format, text).unwrap_err();
            assert!(error.duplicate && error.line >= 2, "{format:?} {error:?}");
        }
    }

    #[test]
    fn the_difference_names_only_common_keys() {
        let (a, b) = (of(Format::Yaml, "a: {b: 1, c: 2}"), of(Format::Yaml, "a: {b: {evil: 1}, c: 2}"));
        assert_eq!(a.difference(&b).unwrap(), "under `.a.b`");
        assert_eq!(of(Format::Yaml, "a: 1").difference(&of(Format::Yaml, "b: 1")).unwrap(), "at the top");
    }
}
