use std::time::Duration;

use super::*;

/// Of 2026-11-20T12:00:00Z, signed by botocore 1.44.5's `SigV4Auth` with the same headers.
const NOON: Duration = Duration::from_secs(1_795_176_000);
const KEY: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";

fn given(token: Option<&str>) -> Credentials {
    Credentials {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: KEY.into(),
        session_token: token.map(SecretBytes::from),
        ends: None,
    }
}

fn at_noon(token: Option<&str>, region: &str, header_value: Option<&str>) -> Result<Signed, String> {
    signed(&given(token), region, header_value, SystemTime::UNIX_EPOCH + NOON)
}

#[test]
fn the_signature_is_the_one_that_another_implementation_makes() {
    let token = Some("the/session+token==");
    let bare = "content-type;host;x-amz-date";
    let all = "content-type;host;x-amz-date;x-amz-security-token;x-vault-aws-iam-server-id";
    for (token, region, header, host, names, signature) in [
        (
            None,
            "us-east-1",
            None,
            "sts.amazonaws.com",
            bare,
            "5bdc3efa0b392cca3153967279864076f37f6159d3e67afc3b0c25dd09171b98",
        ),
        (
            token,
            "us-east-1",
            Some("vault.example.com"),
            "sts.amazonaws.com",
            all,
            "7eda2b8b352085acb05c769a638b5e9329fff476ab6e9f03441770fca58af8d9",
        ),
        (
            token,
            "eu-west-1",
            Some("vault.example.com"),
            "sts.eu-west-1.amazonaws.com",
            all,
            "ab318af5a1eb4d5021872bec9304b985114a67f7e7199fa30e3b033f78416525",
        ),
        (
            None,
            "cn-north-1",
            None,
            "sts.cn-north-1.amazonaws.com.cn",
            bare,
            "ce14bfbaecb5683125962e1c2a52f21decd313c2b1d6392d9d6eec8eda106416",
        ),
    ] {
        let made = at_noon(token, region, header).unwrap();
        assert_eq!(made.url, format!("https://{host}/"));
        let of = |name: &str| made.headers.get(name).map(|[value]| value.as_str());
        assert_eq!(of("x-amz-date"), Some("20261120T120000Z"));
        assert_eq!((of("x-amz-security-token"), of(SERVER_ID)), (token, header));
        assert_eq!(of("host"), None, "the server makes it from the URL");
        let scope = format!("20261120/{region}/sts/aws4_request");
        let wanted =
            format!("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/{scope}, SignedHeaders={names}, Signature={signature}");
        assert_eq!(of("authorization"), Some(wanted.as_str()), "{region}");
    }
}

#[test]
fn the_secret_key_is_not_in_what_is_sent_and_a_header_that_is_none_is_refused() {
    let made = at_noon(Some("t"), "us-east-1", None).unwrap();
    assert!(!json!(made.headers).to_string().contains(KEY));
    assert!(at_noon(None, "us-east-1", Some("a\nb")).is_err());
}

#[test]
fn every_partition_has_its_endpoint() {
    for (region, wanted) in [
        ("us-east-1", "sts.amazonaws.com"),
        ("us-east-2", "sts.us-east-2.amazonaws.com"),
        ("us-gov-west-1", "sts.us-gov-west-1.amazonaws.com"),
        ("cn-northwest-1", "sts.cn-northwest-1.amazonaws.com.cn"),
        ("us-iso-east-1", "sts.us-iso-east-1.c2s.ic.gov"),
        ("us-isob-east-1", "sts.us-isob-east-1.sc2s.sgov.gov"),
    ] {
        assert_eq!(host(region), wanted);
    }
}

#[test]
fn what_aws_says_becomes_what_to_do() {
    let refused = |code: &str, text: &str| {
        format!(
            "error making upstream request: received error code 403 from STS: <Code>{code}</Code><Message>{text}</Message>"
        )
    };
    for (errors, says) in [
        (refused("SignatureDoesNotMatch", "Signature expired: 20261120T1 is now earlier than 20261120T2"), "clock"),
        (refused("SignatureDoesNotMatch", "Signature not yet current: 20261120T2 is still later than"), "clock"),
        (refused("ExpiredToken", "The security token included in the request is expired"), "expired"),
        (refused("InvalidClientTokenId", "The security token included in the request is invalid."), "does not know"),
        (refused("SignatureDoesNotMatch", "Credential should be scoped to a valid region."), "auth.region"),
        ("error validating X-Vault-AWS-IAM-Server-ID header: expected \"a\" but got \"\"".into(), "auth.header_value"),
    ] {
        assert!(advice(&errors).is_some_and(|todo| todo.contains(says)), "{errors}: {:?}", advice(&errors));
    }
    assert_eq!(advice("entry for role app not found"), None);
}
