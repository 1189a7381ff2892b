use serde_json::json;

use super::*;

fn key() -> Key {
    Key::new(b"test")
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().cloned().unwrap_or_default()
}

const S: fn(u64) -> Duration = Duration::from_secs;

#[test]
fn kv1_is_no_lease_and_its_ttl_is_honoured() {
    let reading = plain(&key(), &map(json!({"password": "x"})));
    assert_eq!((reading.again, reading.lease), (Again::Free, None));
    assert_eq!(plain(&key(), &map(json!({"ttl": "30m"}))).again, Again::After(S(1800)));
    assert_ne!(reading.version, plain(&key(), &map(json!({"password": "y"}))).version);
}

#[test]
fn dynamic_credentials_are_a_lease_and_their_version_is_not_its_id() {
    let answer = json!({"lease_id": "db/creds/r/abc", "lease_duration": 3600, "renewable": true, "data": {"username": "u", "password": "p"}});
    let reading = other(&key(), &answer, false, Timestamp::UNIX_EPOCH).unwrap();
    let lease = reading.lease.unwrap();
    assert_eq!((lease.id.as_str(), lease.duration, lease.renewable), ("db/creds/r/abc", S(3600), true));
    assert_eq!(reading.again, Again::Mints);
    assert!(!reading.version.0.contains("abc"));
}

#[test]
fn a_lease_duration_of_zero_is_no_end() {
    let answer = json!({"lease_id": "x", "lease_duration": 0, "renewable": false, "data": {}});
    assert_eq!(lease(&answer).map(|lease| lease.duration), Some(FOREVER));
}

#[test]
fn a_static_role_is_read_after_its_ttl_and_its_version_moves_with_its_rotation_only() {
    let at = |ttl: u64, rotation: &str, password: &str| {
        rotated(
            &key(),
            &map(json!({"ttl": ttl, "last_vault_rotation": rotation, "username": "u", "password": password})),
        )
        .unwrap()
    };
    let (one, same) = (at(100, "2024-05-01T10:00:00Z", "p"), at(40, "2024-05-01T10:00:00Z", "p"));
    assert_eq!(one.version, same.version);
    assert_eq!((one.again, same.again), (Again::After(S(102)), Again::After(S(42))));
    assert_ne!(one.version, at(100, "2024-05-02T10:00:00Z", "q").version);
    assert_eq!(at(0, "2024-05-01T10:00:00Z", "p").again, Again::After(MID_ROTATION));
    assert!(one.created_at.is_some());
    assert!(rotated(&key(), &map(json!({"username": "u"}))).is_none());
}

#[test]
fn a_certificate_has_its_end_its_serial_and_its_chain() {
    let data =
        map(json!({"certificate": "LEAF", "issuing_ca": "CA", "ca_chain": ["CA\n", "ROOT"], "private_key": "KEY",
        "serial_number": "17:4a", "expiration": 1_700_000_000}));
    let reading = certificate(&data).unwrap();
    assert_eq!(reading.version, Version("17:4a".into()));
    assert_eq!(reading.expires_at, Timestamp::from_second(1_700_000_000).ok());
    assert_eq!(reading.again, Again::Mints);
    assert!(reading.fields["fullchain"] == Field::text("LEAF\nCA\nROOT\n"));
    let bare = map(json!({"certificate": "LEAF", "issuing_ca": "CA", "serial_number": "1"}));
    assert!(certificate(&bare).unwrap().fields["fullchain"] == Field::text("LEAF\nCA\n"));
    assert!(certificate(&map(json!({"data": 1}))).is_none());
}

#[test]
fn a_transit_key_is_its_newest_version() {
    let data = map(json!({"latest_version": 2, "type": "ed25519", "name": "k",
        "keys": {"1": {"public_key": "A", "creation_time": "2024-05-01T10:00:00Z"}, "2": {"public_key": "B", "creation_time": "2024-05-02T10:00:00Z"}}}));
    let reading = transit(&data).unwrap();
    assert_eq!((reading.version, reading.again), (Version("2".into()), Again::Free));
    assert!(reading.fields["public_key"] == Field::text("B"));
    assert!(matches!(&reading.fields["public_keys"], Field::Map(keys) if keys.len() == 2));
    let symmetric = map(json!({"latest_version": 1, "type": "aes256-gcm96", "keys": {"1": 1_442_851_412}}));
    let reading = transit(&symmetric).unwrap();
    assert!(reading.created_at.is_some() && !reading.fields.contains_key("public_keys"));
}

#[test]
fn what_a_post_makes_is_made_once_and_what_a_get_shows_is_read_again() {
    let now = Timestamp::UNIX_EPOCH;
    let got = other(&key(), &json!({"data": {"a": 1}}), false, now).unwrap();
    assert_eq!(got.again, Again::Free);
    let made = other(&key(), &json!({"data": {"signed_key": "x"}}), true, now).unwrap();
    assert_eq!(made.again, Again::Mints);
    let token = other(&key(), &json!({"data": {"token": "x", "ttl": 60}}), false, now).unwrap();
    assert_eq!(token.again, Again::Mints);
    assert_eq!(token.expires_at, Timestamp::from_second(60).ok());
    assert!(other(&key(), &json!({"data": null}), false, now).is_none());
}
