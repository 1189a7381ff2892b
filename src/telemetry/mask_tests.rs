use proptest::prelude::*;

use super::*;
use crate::secret::{Fields, Version};

fn reading(values: &[(&str, Field)]) -> Reading {
    let fields: Fields = values.iter().map(|(name, field)| ((*name).to_owned(), field.clone())).collect();
    Reading::new(fields, Version("1".into()))
}

#[test]
fn every_value_of_a_reading_is_masked_nested_ones_too() {
    let registry = Registry::default();
    let nested = Field::Map([("inner".to_owned(), Field::List(vec![Field::text("nested-canary")]))].into());
    let _held = registry.reading(&reading(&[
        ("key", Field::text("sk-ant-canary")),
        ("port", Field::Number("54321".into())),
        ("deep", nested),
        ("on", Field::Bool(true)),
    ]));
    assert_eq!(
        registry.mask("sk-ant-canary, at 127.0.0.1:54321: nested-canary is true"),
        "***, at 127.0.0.1:***: *** is true"
    );
}

#[test]
fn a_text_without_a_value_is_not_copied() {
    let registry = Registry::default();
    let _held = registry.value(b"sk-ant-canary");
    assert!(matches!(registry.mask("nothing here: sk-ant-canar"), Cow::Borrowed(_)));
}

#[test]
fn a_short_value_is_masked_as_a_word_only_and_a_tiny_one_never() {
    let registry = Registry::default();
    let _held = (registry.value(b"user"), registry.value(b"abc"));
    assert_eq!(registry.mask("user=superuser user2 (user) abc"), "***=superuser user2 (***) abc");
}

#[test]
fn of_overlapping_values_nothing_is_left() {
    let registry = Registry::default();
    let _held = (registry.value(b"hunter22-abc"), registry.value(b"abc-secret99"), registry.value(b"r22-abc-sec"));
    assert_eq!(registry.mask("x hunter22-abc-secret99 y"), "x *** y");
    assert_eq!(registry.mask("hunter22-abchunter22-abc"), "***");
}

#[test]
fn bytes_that_cut_a_character_take_the_whole_character() {
    let registry = Registry::default();
    let _held = registry.value(&"é-canary-é".as_bytes()[1..]);
    assert_eq!(registry.mask("xé-canary-éy"), "x***y");
}

#[test]
fn a_value_stays_masked_for_an_hour_after_its_last_use_and_is_then_forgotten() {
    let registry = Registry::default();
    let (first, second) = (registry.value(b"sk-ant-canary"), registry.value(b"sk-ant-canary"));
    drop(first);
    registry.forget(Instant::now() + 2 * RETIRED_FOR);
    assert_eq!(registry.mask("sk-ant-canary"), "***", "the second use still holds it");
    drop(second);
    assert_eq!(registry.mask("sk-ant-canary"), "***", "retired, not forgotten");
    registry.forget(Instant::now() + RETIRED_FOR - Duration::from_secs(60));
    assert_eq!(registry.mask("sk-ant-canary"), "***");
    registry.forget(Instant::now() + RETIRED_FOR + Duration::from_secs(60));
    assert_eq!(registry.mask("sk-ant-canary"), "sk-ant-canary");
    assert!(registry.is_empty());
}

#[test]
fn a_value_taken_up_again_is_not_forgotten_by_its_earlier_retirement() {
    let registry = Registry::default();
    drop(registry.value(b"sk-ant-canary"));
    let held = registry.value(b"sk-ant-canary");
    registry.forget(Instant::now() + 2 * RETIRED_FOR);
    assert_eq!(registry.mask("sk-ant-canary"), "***");
    drop(held);
    assert_eq!(registry.mask("sk-ant-canary"), "***");
}

#[test]
fn ten_thousand_secrets_are_registered_retired_and_searched_without_trouble() {
    let registry = Registry::default();
    let begun = Instant::now();
    let held: Vec<_> =
        (0..10_000).map(|i| registry.value(format!("sk-ant-api03-{i:05}-abcdefghijklmnop").as_bytes())).collect();
    let line = "a line of a log with sk-ant-api03-07777-abcdefghijklmnop and no more than that in it";
    for _ in 0..1000 {
        assert_eq!(registry.mask(line), "a line of a log with *** and no more than that in it");
    }
    drop(held);
    registry.forget(Instant::now() + 2 * RETIRED_FOR);
    assert!(registry.is_empty());
    // Debug builds on a loaded machine; a quadratic registry takes minutes.
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// A value of eight bytes or more is gone from any text, however it is embedded, and what surrounds it stays.
    #[test]
    fn no_value_survives(value in "[!-~é\n\" \\\\]{8,40}", before in "[A-Z]{0,9}", after in "[A-Z]{0,9}") {
        let registry = Registry::default();
        let _held = registry.value(value.as_bytes());
        let json = serde_json::to_string(&value).unwrap();
        for form in [value.clone(), json[1..json.len() - 1].to_owned(), format!("{value:?}")] {
            let masked = registry.mask(&format!("{before}{form}{after}")).into_owned();
            prop_assert!(!masked.contains(&value) || value.chars().all(|c| c == '*'), "{masked}");
            prop_assert!(masked.contains(MASK) && masked.starts_with(&before) && masked.ends_with(&after), "{masked}");
        }
    }
}
