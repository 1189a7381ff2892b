use proptest::prelude::*;

use super::*;

fn seal() -> Seal {
    Seal::new(&[1; SHORTEST_KEY]).unwrap()
}

fn at(place: &str) -> &Path {
    Path::new(place)
}

#[test]
fn a_short_key_is_none() {
    assert!(Seal::new(&[1; SHORTEST_KEY - 1]).is_none());
    assert!(Seal::new(&[1; SHORTEST_KEY]).is_some());
}

#[test]
fn the_same_message_is_never_sealed_to_the_same_bytes() {
    let (one, two) = (seal().seal("p", at("x"), b"value").unwrap(), seal().seal("p", at("x"), b"value").unwrap());
    assert_ne!(one, two);
    assert_ne!(one[HEAD..], two[HEAD..]);
    assert_ne!(one[8..HEAD], two[8..HEAD], "not even by its key check are messages linked");
}

#[test]
fn another_key_is_told_from_torn_bytes_and_from_what_was_never_sealed() {
    let sealed = seal().seal("p", at("x"), b"value").unwrap();
    let other = Seal::new(&[2; SHORTEST_KEY]).unwrap();
    assert_eq!(other.open("p", at("x"), &sealed).unwrap_err(), SealError::OtherKey);
    assert_eq!(seal().open("p", at("x"), b"{\"format\":1}").unwrap_err(), SealError::NotSealed);
    for end in 0..sealed.len() {
        let why = seal().open("p", at("x"), &sealed[..end]).unwrap_err();
        let expected = if end < MAGIC.len() { SealError::NotSealed } else { SealError::Damaged };
        assert_eq!(why, expected, "cut at {end}");
    }
    let mut newer = sealed.clone();
    newer[MAGIC.len()] = 2;
    assert_eq!(seal().open("p", at("x"), &newer).unwrap_err(), SealError::Newer(2));
    let keyless = open_if_sealed(None, "p", at("x"), sealed.clone());
    assert_eq!(keyless.unwrap_err(), SealError::NoKey);
    assert_eq!(open_if_sealed(None, "p", at("x"), b"{}".to_vec()).unwrap().expose(), b"{}");
    assert_eq!(open_if_sealed(Some(&seal()), "p", at("x"), b"{}".to_vec()).unwrap().expose(), b"{}");
    assert_eq!(open_if_sealed(Some(&seal()), "p", at("x"), sealed).unwrap().expose(), b"value");
}

#[test]
fn every_flipped_bit_is_refused_and_not_taken_for_another_key() {
    let sealed = seal().seal("p", at("x"), b"value").unwrap();
    for bit in 0..sealed.len() * 8 {
        let mut flipped = sealed.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let why = seal().open("p", at("x"), &flipped).unwrap_err();
        assert_ne!(why, SealError::OtherKey, "bit {bit}");
    }
}

#[test]
fn a_message_is_opened_only_where_it_was_sealed() {
    let seal = seal();
    let sealed = seal.within("targets/a").seal("blob", at("files/x"), b"value").unwrap();
    assert!(seal.open("blob", at("targets/a/files/x"), &sealed).is_ok());
    assert!(seal.within("targets").within("a/files").open("blob", at("x"), &sealed).is_ok());
    for (place, purpose) in [("targets/b/files/x", "blob"), ("targets/a/files/y", "blob"), ("targets/a/files/x", "env")]
    {
        assert_eq!(seal.open(purpose, at(place), &sealed).unwrap_err(), SealError::Damaged, "{purpose} {place}");
    }
    let framed = seal.seal("ab", at("c"), b"value").unwrap();
    assert_eq!(seal.open("a", at("bc"), &framed).unwrap_err(), SealError::Damaged);
}

#[test]
fn what_was_sealed_by_the_first_version_is_opened() {
    // Made once by this very code; whoever changes the format must go on reading it.
    let sealed = include_bytes!("version1.sealed");
    assert_eq!(seal().open("format", at("version/1"), sealed).unwrap().expose(), b"sealed by version 1");
}

#[test]
fn nothing_of_a_seal_is_shown() {
    assert_eq!(format!("{:?}", seal().within("targets/a")), "Seal { within: \"targets/a\", .. }");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_sealed_is_opened_again(
        key in prop::collection::vec(any::<u8>(), SHORTEST_KEY..100),
        plaintext in prop::collection::vec(any::<u8>(), 0..4096),
        purpose in "[a-z.]{0,12}",
        place in "[a-z/]{1,20}",
    ) {
        let seal = Seal::new(&key).unwrap();
        let sealed = seal.seal(&purpose, at(&place), &plaintext).unwrap();
        prop_assert!(is_sealed(&sealed));
        prop_assert_eq!(sealed.len() as u64, sealed_len(plaintext.len() as u64));
        let opened = seal.open(&purpose, at(&place), &sealed).unwrap();
        prop_assert_eq!(opened.expose(), &plaintext[..]);
        if plaintext.len() > 8 {
            prop_assert!(!sealed.windows(plaintext.len()).any(|window| window == plaintext));
        }
    }

    #[test]
    fn any_other_key_purpose_place_or_byte_is_refused(
        plaintext in prop::collection::vec(any::<u8>(), 0..300),
        key in prop::collection::vec(any::<u8>(), SHORTEST_KEY..40),
        (purpose, place) in ("[a-c]{0,3}", "[a-c]{1,3}"),
        at_byte in any::<prop::sample::Index>(),
        by in 1..=255u8,
    ) {
        let sealed = seal().seal("abc", at("abc"), &plaintext).unwrap();
        let other = Seal::new(&key).unwrap().open("abc", at("abc"), &sealed);
        prop_assert_eq!(other.unwrap_err(), SealError::OtherKey);
        if (purpose.as_str(), place.as_str()) != ("abc", "abc") {
            prop_assert_eq!(seal().open(&purpose, at(&place), &sealed).unwrap_err(), SealError::Damaged);
        }
        let mut spoilt = sealed.clone();
        spoilt[at_byte.index(sealed.len())] ^= by;
        prop_assert!(seal().open("abc", at("abc"), &spoilt).is_err());
    }
}
