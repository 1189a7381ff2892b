//! The login with AWS IAM: who calls is shown by a signed `sts:GetCallerIdentity`, which the server sends on to AWS
//! (<https://developer.hashicorp.com/vault/api-docs/auth/aws#login>). The keys themselves never leave the agent.
//!
//! As `vault login -method=aws` does it: signed for us-east-1 at STS's global endpoint unless a region is set, since the
//! server asks that one unless its `sts_endpoint` and `sts_region` say otherwise. AWS takes a signature for 15 minutes.

use std::collections::BTreeMap;
use std::time::SystemTime;

use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::call::Call;
use super::judge;
use super::server::Server;
use crate::aws_identity::{Credentials, DEFAULT_REGION};
use crate::config::model::AwsRegion;
use crate::secret::SecretBytes;
use crate::store::{StoreError, StoreErrorKind};

const BODY: &str = "Action=GetCallerIdentity&Version=2011-06-15";
const SERVER_ID: &str = "x-vault-aws-iam-server-id";

/// What the config says of this login.
pub(super) struct Iam<'a> {
    pub mount: &'a str,
    pub role: Option<&'a str>,
    pub header_value: Option<&'a str>,
    pub region: Option<&'a AwsRegion>,
}

/// The login's request, signed now with what the chain gives now.
pub(super) async fn request(server: &Server, iam: &Iam<'_>) -> Result<Call, StoreError> {
    let path = format!("auth/{}/login", iam.mount);
    let now = SystemTime::from((server.senses.clock)());
    let aws = &server.senses.aws;
    let credentials = aws.credentials(now).await.map_err(|error| {
        let kind = if error.passes() { StoreErrorKind::Unavailable } else { StoreErrorKind::Denied };
        judge::error(&server.name, &path, kind, error)
    })?;
    let region = match iam.region {
        Some(AwsRegion::Named(region)) => region.clone(),
        Some(AwsRegion::Auto) => aws.region().await.unwrap_or_else(|| DEFAULT_REGION.into()),
        None => DEFAULT_REGION.into(),
    };
    let signed = signed(&credentials, &region, iam.header_value, now).map_err(|why| {
        let text = format!("cannot sign for AWS: {why}; look at header_value, the region and the credentials");
        judge::error(&server.name, &path, StoreErrorKind::Denied, text)
    })?;
    tracing::debug!(store = %server.name, access_key_id = %credentials.access_key_id, url = %signed.url, "signed for AWS");
    // Whoever has these can log in for a while.
    let headers = SecretBytes::from(STANDARD.encode(json!(signed.headers).to_string()));
    let mut body = json!({
        "iam_http_request_method": "POST",
        "iam_request_url": STANDARD.encode(&signed.url),
        "iam_request_body": STANDARD.encode(BODY),
        "iam_request_headers": headers.expose_str(),
    });
    if let Some(role) = iam.role {
        body["role"] = json!(role);
    }
    let mut call = Call::post(path, &body).hiding(&headers).hiding(&credentials.secret_access_key);
    call.secrets.extend(credentials.session_token);
    Ok(call)
}

/// What the server is given to send on.
struct Signed {
    url: String,
    /// As Go's `http.Header` is written in JSON.
    headers: BTreeMap<String, [String; 1]>,
}

/// Signature Version 4 in the headers (<https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv.html>). Pure.
fn signed(
    credentials: &Credentials,
    region: &str,
    header_value: Option<&str>,
    now: SystemTime,
) -> Result<Signed, String> {
    let host = host(region);
    let url = format!("https://{host}/");
    let mut headers =
        BTreeMap::from([("host", host.as_str()), ("content-type", "application/x-www-form-urlencoded; charset=utf-8")]);
    headers.extend(header_value.map(|value| (SERVER_ID, value)));
    let text = |secret: &SecretBytes| secret.expose_str().unwrap_or_default().to_owned();
    let identity = aws_credential_types::Credentials::new(
        credentials.access_key_id.as_str(),
        text(&credentials.secret_access_key),
        credentials.session_token.as_ref().map(text),
        None,
        "leasehold",
    );
    let identity = identity.into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name("sts")
        .time(now)
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| error.to_string())?;
    let lines = headers.iter().map(|(name, value)| (*name, *value));
    let request = SignableRequest::new("POST", &url, lines, SignableBody::Bytes(BODY.as_bytes()));
    let made = sign(request.map_err(|error| error.to_string())?, &params.into()).map_err(|error| error.to_string())?;
    let (instructions, _signature) = made.into_parts();
    // The server makes Host from the URL.
    headers.remove("host");
    let own = headers.into_iter().chain(instructions.headers());
    let headers = own.map(|(name, value)| (name.to_owned(), [value.to_owned()])).collect();
    Ok(Signed { url, headers })
}

/// STS in a region: the global endpoint for us-east-1, by partition elsewhere
/// (<https://docs.aws.amazon.com/general/latest/gr/sts.html>).
fn host(region: &str) -> String {
    const PARTITIONS: [(&str, &str); 6] = [
        ("cn-", "amazonaws.com.cn"),
        ("us-iso-", "c2s.ic.gov"),
        ("us-isob-", "sc2s.sgov.gov"),
        ("us-isof-", "csp.hci.ic.gov"),
        ("eu-isoe-", "cloud.adc-e.uk"),
        ("eusc-", "amazonaws.eu"),
    ];
    if region == DEFAULT_REGION {
        return "sts.amazonaws.com".into();
    }
    let suffix = PARTITIONS.iter().find(|(prefix, _)| region.starts_with(prefix)).map_or("amazonaws.com", |(_, s)| s);
    format!("sts.{region}.{suffix}")
}

/// What to do about a refusal that AWS gave the server (its codes: `SignatureDoesNotMatch`, `ExpiredToken`, …).
pub(super) fn advice(errors: &str) -> Option<&'static str> {
    let says = |words: &[&str]| words.iter().any(|word| errors.contains(word));
    if says(&["Signature expired", "Signature not yet current", "RequestExpired"]) {
        Some("the clock here and AWS's differ by more than AWS allows: mend this machine's time")
    } else if says(&["ExpiredToken", "security token included in the request is expired"]) {
        Some("the AWS credentials have expired: renew them where they come from")
    } else if says(&["InvalidClientTokenId", "UnrecognizedClientException"]) {
        Some(
            "AWS does not know these credentials: were they deleted, or are they another partition's (set auth.region)?",
        )
    } else if says(&["scoped to a valid region", "SignatureDoesNotMatch"]) {
        Some(
            "AWS refuses the signature: auth.region must be the one the server's sts_region names (without: us-east-1)",
        )
    } else if errors.to_ascii_lowercase().contains(SERVER_ID)
        || says(&["validating", "iam_server_id"]) && says(&["header"])
    {
        Some("set auth.header_value to what the server's iam_server_id_header_value says")
    } else {
        None
    }
}

#[cfg(test)]
#[path = "iam_tests.rs"]
mod tests;
