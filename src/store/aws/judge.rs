//! What a failure means, by its code and not by its HTTP status, in an operator's words. Pure.

use std::time::Duration;

use aws_sdk_secretsmanager::error::{ProvideErrorMetadata, SdkError};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;

use crate::aws_identity::{self, line};
use crate::store::{StoreError, StoreErrorKind};

/// Characters of AWS's own words that are told.
const LONGEST: usize = 400;

/// What AWS said to one request that did not go well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Nobody answered, or AWS failed.
    Down,
    /// Asked too much.
    Throttled,
    /// The credentials are over, or AWS does not know them (any more): others may be there by now.
    Expired,
    /// There are no credentials.
    Nobody {
        /// It may pass by itself.
        passing: bool,
    },
    /// Policy denies it.
    Denied,
    /// A 403 (401, 407) that nobody at AWS is known to give, of what stands in between perhaps: it says nothing of the policy.
    Barred,
    /// No such secret, version or label.
    Missing,
    /// It is scheduled for deletion.
    Deleted,
    /// KMS does not let this identity decrypt it.
    Undecipherable,
    /// AWS does not like the request.
    Bad,
}

impl Meaning {
    /// Whether one secret of several is enough for it.
    pub fn is_of_one_secret(self) -> bool {
        matches!(self, Self::Missing | Self::Deleted | Self::Undecipherable | Self::Bad)
    }
}

/// One refusal.
#[derive(Debug)]
pub(super) struct Refusal {
    pub meaning: Meaning,
    /// AWS's code; empty where nobody answered.
    pub code: String,
    /// AWS's words, or what happened on the way, on one line.
    pub text: String,
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// One secret's part of a batch.
    pub fn of_code(code: &str, text: &str) -> Self {
        Self { meaning: meaning(code, text, None), code: code.to_owned(), text: line(text, LONGEST), retry_after: None }
    }

    /// Nothing was asked, for want of credentials.
    pub fn nobody(why: &aws_identity::Error) -> Self {
        let meaning = Meaning::Nobody { passing: why.passes() };
        Self { meaning, code: String::new(), text: why.to_string(), retry_after: None }
    }
}

/// By code (<https://docs.aws.amazon.com/secretsmanager/latest/apireference/CommonErrors.html> and each operation's page);
/// by status only where there is no code that is known.
fn meaning(code: &str, text: &str, status: Option<u16>) -> Meaning {
    match code {
        "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "LimitExceededException"
        | "SlowDown"
        | "BandwidthLimitExceeded"
        | "PriorRequestNotComplete"
        | "ProvisionedThroughputExceededException" => Meaning::Throttled,
        code if code.contains("Throttl") => Meaning::Throttled,
        "ExpiredToken"
        | "ExpiredTokenException"
        | "RequestExpired"
        | "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidSignatureException"
        | "SignatureDoesNotMatch"
        | "InvalidToken"
        | "TokenRefreshRequired" => Meaning::Expired,
        "AccessDenied" | "AccessDeniedException" if of_kms(text) => Meaning::Undecipherable,
        "AccessDenied"
        | "AccessDeniedException"
        | "NotAuthorized"
        | "UnauthorizedOperation"
        | "OptInRequired"
        | "MissingAuthenticationToken"
        | "MissingAuthenticationTokenException"
        | "IncompleteSignature" => Meaning::Denied,
        "ResourceNotFoundException" => Meaning::Missing,
        "InvalidRequestException" if text.contains("deletion") || text.contains("deleted") => Meaning::Deleted,
        "DecryptionFailure" | "DecryptionFailureException" => Meaning::Undecipherable,
        "RequestTimeout"
        | "RequestTimeoutException"
        | "InternalServiceError"
        | "InternalServiceErrorException"
        | "InternalFailure"
        | "InternalError"
        | "InternalServerError"
        | "ServiceUnavailable"
        | "ServiceUnavailableException" => Meaning::Down,
        _ => match status {
            Some(429) => Meaning::Throttled,
            Some(500..) | None => Meaning::Down,
            Some(401 | 403 | 407) => Meaning::Barred,
            // AWS always says a code.
            Some(_) if code.is_empty() => Meaning::Down,
            Some(_) => Meaning::Bad,
        },
    }
}

/// Whether it is the key that is denied and not the secret: "Access to KMS is not allowed", which AWS says under the code
/// of a denial, or IAM's own words about an action of KMS.
fn of_kms(text: &str) -> bool {
    text.contains("Access to KMS") || text.contains("perform: kms:")
}

/// What the SDK's error says.
pub(super) fn refusal<E>(error: SdkError<E, HttpResponse>) -> Refusal
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    if let Some(why) = aws_identity::behind(&error) {
        return Refusal::nobody(&why);
    }
    let response = error.raw_response();
    let status = response.map(|response| response.status().as_u16());
    let retry_after = response.and_then(|response| response.headers().get("retry-after")?.parse().ok());
    let retry_after = retry_after.map(Duration::from_secs);
    let timed_out = matches!(error, SdkError::TimeoutError(_));
    if let SdkError::ServiceError(refused) = &error {
        let (code, text) = (refused.err().code().unwrap_or_default(), refused.err().message().unwrap_or_default());
        let meaning = meaning(code, text, status);
        let code = if code.is_empty() { status.map(|s| s.to_string()).unwrap_or_default() } else { code.to_owned() };
        return Refusal { meaning, code, text: line(text, LONGEST), retry_after };
    }
    let text = if timed_out { "no answer in time".to_owned() } else { innermost(&error) };
    Refusal { meaning: Meaning::Down, code: String::new(), text: line(&text, LONGEST), retry_after }
}

/// The SDK's outer errors say little ("dispatch failure"): the innermost cause says what it was.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let (mut last, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        last = cause.to_string();
        next = cause.source();
    }
    last
}

/// `store NAME, ID: what (code: AWS's words); what to do`.
pub(super) fn error(store: &str, region: &str, operation: &str, what: &str, refusal: &Refusal) -> StoreError {
    use StoreErrorKind::{Denied, Missing, Unavailable};
    let (kind, happened, todo) = match refusal.meaning {
        Meaning::Down if refusal.code.is_empty() => {
            (Unavailable, "cannot be reached".to_owned(), "look at the network, proxies, the region and endpoint_url")
        }
        Meaning::Down => (Unavailable, "fails".to_owned(), "it is asked again"),
        Meaning::Throttled => (Unavailable, "is asked too often".to_owned(), "it is asked again, later; raise poll"),
        Meaning::Expired => (
            if refusal.code.starts_with("Expired") || refusal.code == "RequestExpired" { Unavailable } else { Denied },
            "does not take these credentials".to_owned(),
            "they are loaded anew at each attempt: renew them where they come from, and look at this machine's clock",
        ),
        Meaning::Nobody { passing } => (if passing { Unavailable } else { Denied }, "is not asked".to_owned(), ""),
        Meaning::Denied => (
            Denied,
            format!("denies {operation}"),
            "allow it to this identity (`agent check` prints the policy), in the secret's resource policy too",
        ),
        Meaning::Barred => (
            Denied,
            format!("or what stands before it refuses {operation}"),
            "look at proxies and firewalls on the way, and at endpoint_url",
        ),
        Meaning::Missing => {
            (Missing, "has no such secret or version".to_owned(), "mend id, stage or version_id, or create it")
        }
        Meaning::Deleted => (
            Missing,
            "has it scheduled for deletion".to_owned(),
            "aws secretsmanager restore-secret brings it back; what was read last stays in use",
        ),
        Meaning::Undecipherable => (
            Denied,
            "cannot decrypt it".to_owned(),
            "allow this identity kms:Decrypt on its key (`agent check` prints the policy), in the key's policy too, and look \
             whether the key is enabled",
        ),
        Meaning::Bad => (Missing, "refuses the request".to_owned(), "mend id, stage or version_id"),
    };
    let said = match (refusal.code.is_empty(), refusal.text.is_empty()) {
        (true, true) => String::new(),
        (true, false) => format!(" ({})", refusal.text),
        (false, true) => format!(" ({})", refusal.code),
        (false, false) => format!(" ({}: {})", refusal.code, refusal.text),
    };
    let todo = if todo.is_empty() { String::new() } else { format!("; {todo}") };
    let message = format!("store {store}, {what}: AWS in {region} {happened}{said}{todo}");
    StoreError { kind, message, retry_after: refusal.retry_after }
}

/// The same error, told of another secret: what keeps one from being read keeps others, too.
pub(super) fn about(store: &str, what: &str, error: StoreError) -> StoreError {
    match error.message.split_once(": AWS in ") {
        Some((_, rest)) => StoreError { message: format!("store {store}, {what}: AWS in {rest}"), ..error },
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_decides_and_not_the_status() {
        for (code, text, status, wanted) in [
            ("ThrottlingException", "", Some(400), Meaning::Throttled),
            ("SomethingThrottledException", "", Some(400), Meaning::Throttled),
            ("RequestThrottled", "", Some(403), Meaning::Throttled),
            ("ExpiredTokenException", "", Some(400), Meaning::Expired),
            ("", "", Some(403), Meaning::Barred),
            ("SomethingNew", "", Some(403), Meaning::Barred),
            ("", "", Some(407), Meaning::Barred),
            ("", "", Some(302), Meaning::Down),
            ("AccessDeniedException", "", Some(400), Meaning::Denied),
            ("ResourceNotFoundException", "", Some(400), Meaning::Missing),
            ("ResourceNotFoundException", "", Some(404), Meaning::Missing),
            (
                "InvalidRequestException",
                "You can't perform this operation on the secret because it was marked for deletion.",
                Some(400),
                Meaning::Deleted,
            ),
            ("InvalidRequestException", "You can't.", Some(400), Meaning::Bad),
            ("DecryptionFailure", "", Some(400), Meaning::Undecipherable),
            ("AccessDeniedException", "Access to KMS is not allowed", Some(400), Meaning::Undecipherable),
            (
                "AccessDeniedException",
                "User: arn:aws:sts::1:assumed-role/a/b is not authorized to perform: kms:Decrypt on the resource",
                Some(400),
                Meaning::Undecipherable,
            ),
            (
                "AccessDeniedException",
                "User: arn:aws:iam::1:user/KMS is not authorized to perform: secretsmanager:GetSecretValue",
                Some(400),
                Meaning::Denied,
            ),
            ("InternalServiceError", "", Some(500), Meaning::Down),
            ("SomethingNew", "", Some(503), Meaning::Down),
            ("SomethingNew", "", Some(429), Meaning::Throttled),
            ("SomethingNew", "", Some(400), Meaning::Bad),
            ("", "", None, Meaning::Down),
        ] {
            assert_eq!(meaning(code, text, status), wanted, "{code} {status:?}");
        }
    }

    #[test]
    fn an_error_names_the_secret_what_happened_and_what_to_do_on_one_line() {
        let refusal = Refusal::of_code("AccessDeniedException", "User: arn:aws:iam::1:user/x\nis not authorized");
        let error = error("aws", "eu-west-1", "GetSecretValue", "litellm/aws", &refusal);
        assert_eq!(error.kind, StoreErrorKind::Denied);
        assert_eq!(
            error.message,
            "store aws, litellm/aws: AWS in eu-west-1 denies GetSecretValue (AccessDeniedException: User: \
             arn:aws:iam::1:user/x is not authorized); allow it to this identity (`agent check` prints the policy), in the \
             secret's resource policy too"
        );
    }

    #[test]
    fn what_a_refused_signature_echoes_of_the_request_is_not_told() {
        let text = "The request signature we calculated does not match the signature you provided.\n\nThe Canonical String \
                    for this request should have been\n'POST\n/\n\nx-amz-security-token:zQ7xv9session\n'";
        let refusal = Refusal::of_code("InvalidSignatureException", text);
        assert_eq!(refusal.meaning, Meaning::Expired);
        let told = error("aws", "eu-west-1", "GetSecretValue", "app", &refusal).message;
        assert!(told.contains("does not match") && !told.contains("zQ7xv9session"), "{told}");
    }
}
