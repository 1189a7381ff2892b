//! Who the agent is to AWS: credentials and region by the SDK's own chain, over the agent's one TLS stack.
//!
//! The chain (<https://docs.aws.amazon.com/sdkref/latest/guide/standardized-credentials.html>): the environment, the
//! profile (keys, `role_arn`, `credential_process`, SSO), a web identity (EKS), the container's endpoint (ECS, Pod
//! Identity), the instance's metadata (IMDSv2). Variables and files mean what they mean to every AWS tool.
//!
//! Nothing is opened, asked or allocated before the first question; files are read anew at each.

mod proxy;

use std::error::Error as _;
use std::fmt::Write as _;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::{ProfileFileCredentialsProvider, ProfileFileRegionProvider};
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_sts::operation::assume_role::AssumeRoleError;
use aws_sdk_sts::operation::assume_role_with_web_identity::AssumeRoleWithWebIdentityError;
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::SharedHttpClient;

use crate::secret::SecretBytes;

/// Where AWS is, if nothing says so: its global endpoints sign for this region.
pub const DEFAULT_REGION: &str = "us-east-1";

/// Bound on a question to the chain: a process, STS and the metadata services may be asked in turn.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Codes of STS that stay until somebody changes something.
const DENIALS: [&str; 6] = [
    "AccessDenied",
    "AccessDeniedException",
    "InvalidClientTokenId",
    "SignatureDoesNotMatch",
    "InvalidIdentityToken",
    "ValidationError",
];
/// How the request begins in AWS's words about a signature.
const ECHO: &str = "The Canonical String";

/// Credentials as they are now. No `Debug`.
#[derive(Clone)]
pub struct Credentials {
    /// No secret: requests name it in the clear.
    pub access_key_id: String,
    /// Signs.
    pub secret_access_key: SecretBytes,
    /// Of temporary credentials.
    pub session_token: Option<SecretBytes>,
    /// When they end, where they do.
    pub ends: Option<SystemTime>,
}

/// Why there are no credentials. Says what was tried, never a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Nobody in the chain has any.
    #[error(
        "no AWS credentials found: {tried}; give the pod or instance a role, or set AWS_PROFILE, or AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY"
    )]
    None {
        /// Link by link.
        tried: String,
    },
    /// A link that is configured fails: no later one is asked.
    #[error("cannot load AWS credentials: {why}; look at what provides them")]
    Failed {
        /// As the SDK says it, on one line.
        why: String,
        /// It may pass by itself.
        passing: bool,
    },
    /// Found, and over.
    #[error("the AWS credentials found have expired; renew them where they come from (the process, the role)")]
    Expired,
    /// The chain hangs.
    #[error("AWS credentials did not come within {} s: look at the process, STS or the metadata service, whichever provides them", TIMEOUT.as_secs())]
    Late,
}

impl Error {
    /// Whether another attempt may go better with nobody doing anything.
    pub fn passes(&self) -> bool {
        matches!(self, Self::Failed { passing: true, .. } | Self::Late)
    }
}

/// The chain, or what stands for it.
pub struct Identity {
    fixed: Option<(Credentials, Option<String>)>,
    http: OnceLock<SharedHttpClient>,
}

impl Identity {
    /// The SDK's chain, as the environment and files of this process have it.
    pub fn chain() -> Self {
        Self { fixed: None, http: OnceLock::new() }
    }

    /// These, whatever the environment says.
    pub fn fixed(credentials: Credentials, region: Option<String>) -> Self {
        Self { fixed: Some((credentials, region)), http: OnceLock::new() }
    }

    /// The credentials of now: each call asks the chain anew.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn credentials(&self, now: SystemTime) -> Result<Credentials, Error> {
        let found = match &self.fixed {
            Some((credentials, _)) => credentials.clone(),
            None => tokio::time::timeout(TIMEOUT, self.ask()).await.unwrap_or(Err(Error::Late))?,
        };
        match found.ends.is_some_and(|ends| ends <= now) {
            true => Err(Error::Expired),
            false => Ok(found),
        }
    }

    async fn ask(&self) -> Result<Credentials, Error> {
        // The metadata service is not asked for the region: where there is none, that takes seconds.
        let region = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
            .or_else(ProfileFileRegionProvider::new())
            .or_else(Region::from_static(DEFAULT_REGION));
        let config = self.loader().region(region).load().await;
        let Some(provider) = config.credentials_provider() else {
            return Err(Error::None { tried: "the SDK has no chain".into() });
        };
        let found = provider.provide_credentials().await.map_err(|error| told(&error))?;
        Ok(Credentials {
            access_key_id: found.access_key_id().to_owned(),
            secret_access_key: SecretBytes::from(found.secret_access_key()),
            session_token: found.session_token().map(SecretBytes::from),
            ends: found.expiry(),
        })
    }

    /// The region: AWS_REGION, the profile's, the instance's own.
    pub async fn region(&self) -> Option<String> {
        match &self.fixed {
            Some((_, region)) => region.clone(),
            None => {
                let loaded = tokio::time::timeout(TIMEOUT, self.config()).await.ok()?;
                loaded.region().map(ToString::to_string)
            }
        }
    }

    /// The SDK's settings for a client of a service, region and chain included.
    pub async fn config(&self) -> SdkConfig {
        self.loader().load().await
    }

    /// The same with what a config says instead: a profile, a role to assume with what the chain gives, a region. Files
    /// and variables are read anew; no credentials are asked for yet.
    pub async fn config_as(&self, profile: Option<&str>, role: Option<&str>, region: Option<&str>) -> SdkConfig {
        let mut loader = self.loader();
        if let Some(profile) = profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = region {
            loader = loader.region(Region::new(region.to_owned()));
        }
        if let Some((given, region)) = &self.fixed {
            let given = aws_credential_types::Credentials::new(
                given.access_key_id.as_str(),
                given.secret_access_key.expose_str().unwrap_or_default(),
                given.session_token.as_ref().and_then(SecretBytes::expose_str).map(str::to_owned),
                given.ends,
                "leasehold",
            );
            loader = loader.credentials_provider(given);
            if let Some(region) = region {
                loader = loader.region(Region::new(region.clone()));
            }
        }
        let mut config = loader.load().await;
        if let Some(profile) = profile {
            // By itself: the chain would take the keys of the environment first.
            let providing =
                ProviderConfig::without_region().with_http_client(self.http()).with_region(config.region().cloned());
            let provider =
                ProfileFileCredentialsProvider::builder().configure(&providing).profile_name(profile).build();
            config = config.into_builder().credentials_provider(SharedCredentialsProvider::new(provider)).build();
        }
        let Some(role) = role else { return config };
        let role = AssumeRoleProvider::builder(role).session_name("leasehold").configure(&config).build().await;
        config.into_builder().credentials_provider(SharedCredentialsProvider::new(role)).build()
    }

    fn loader(&self) -> ConfigLoader {
        aws_config::defaults(BehaviorVersion::latest()).http_client(self.http())
    }

    fn http(&self) -> SharedHttpClient {
        self.http.get_or_init(client).clone()
    }
}

/// With rustls on ring; it trusts whom the system trusts, and loads that when it first connects.
fn client() -> SharedHttpClient {
    let proxy = proxy::of(|name| std::env::var(name).ok()).unwrap_or_else(|wrong| {
        tracing::warn!("{wrong}");
        None
    });
    let tls = Provider::Rustls(CryptoMode::Ring);
    let Some(proxy) = proxy else { return aws_smithy_http_client::Builder::new().tls_provider(tls).build_https() };
    aws_smithy_http_client::Builder::new().build_with_connector_fn(move |settings, components| {
        let mut connector = Connector::builder().proxy_config(proxy.clone());
        connector.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            connector.set_sleep_impl(components.sleep_impl());
        }
        connector.tls_provider(tls.clone()).build()
    })
}

/// What a chain gives.
///
/// # Errors
/// See [`Error`].
pub async fn load(chain: &SharedCredentialsProvider) -> Result<aws_credential_types::Credentials, Error> {
    let found = tokio::time::timeout(TIMEOUT, chain.provide_credentials()).await.map_err(|_elapsed| Error::Late)?;
    found.map_err(|error| told(&error))
}

/// Why there are no credentials, where that is why a request of the SDK failed.
pub fn behind(error: &(dyn std::error::Error + 'static)) -> Option<Error> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<CredentialsError>() {
            return Some(told(found));
        }
        next = cause.source();
    }
    None
}

/// What STS says to one who would be another.
fn of_sts(error: &CredentialsError) -> Option<Error> {
    let mut next = error.source();
    while let Some(cause) = next {
        let role = cause.downcast_ref::<AssumeRoleError>().map(|refused| ("AssumeRole", refused.meta()));
        let web = cause.downcast_ref::<AssumeRoleWithWebIdentityError>();
        let web = web.map(|refused| ("AssumeRoleWithWebIdentity", refused.meta()));
        if let Some((operation, meta)) = role.or(web) {
            let (code, text) = (meta.code().unwrap_or("no code"), line(meta.message().unwrap_or_default(), 400));
            let denied = DENIALS.contains(&code);
            let allow = "; allow it to whoever asks, in the role's trust policy too";
            let allow = if code.starts_with("AccessDenied") { allow } else { "" };
            return Some(Error::Failed {
                why: format!("STS refuses {operation} ({code}: {text}){allow}"),
                passing: !denied,
            });
        }
        next = cause.source();
    }
    None
}

/// The SDK's error in one line. Its innermost causes say the most.
fn told(error: &CredentialsError) -> Error {
    if let Some(known) = error.source().and_then(|cause| cause.downcast_ref::<Error>()) {
        return known.clone();
    }
    if let Some(refused) = of_sts(error) {
        return refused;
    }
    let mut why = String::new();
    let mut next = error.source();
    while let Some(cause) = next {
        let separator = if why.is_empty() { "" } else { ": " };
        // Into a String: it cannot fail.
        let _ = write!(why, "{separator}{cause}");
        next = cause.source();
    }
    if why.is_empty() {
        why = error.to_string();
    }
    match error {
        CredentialsError::CredentialsNotLoaded(_) => Error::None { tried: tried(&why) },
        CredentialsError::InvalidConfiguration(_) => Error::Failed { why: line(&why, 400), passing: false },
        _ => Error::Failed { why: line(&why, 400), passing: true },
    }
}

/// The SDK's links by names that operators know, with what each said.
fn tried(why: &str) -> String {
    let known = [
        ("Environment: ", "environment (AWS_ACCESS_KEY_ID): "),
        ("Profile: ", "profile (AWS_PROFILE, ~/.aws): "),
        ("WebIdentityToken: ", "web identity (AWS_WEB_IDENTITY_TOKEN_FILE): "),
        ("EcsContainer: ", "container (AWS_CONTAINER_CREDENTIALS_…_URI): "),
        ("Ec2InstanceMetadata: ", "instance metadata (IMDSv2): "),
    ];
    let links = why.lines().map(str::trim).filter_map(|link| {
        let (of, name) = known.iter().find(|(of, _)| link.starts_with(of))?;
        let said = link[of.len()..].rsplit(": ").next().unwrap_or_default();
        let said = if said == "the credential provider was not enabled" { "none there" } else { said };
        Some(format!("{name}{}", line(said, 120)))
    });
    let links: Vec<_> = links.collect();
    if links.is_empty() { line(why, 400) } else { links.join(", ") }
}

/// What AWS or its SDK says, on one line of at most so many characters. Where AWS does not take a signature, it goes on with
/// what should have been signed: headers, the session token among them. That is left out.
pub fn line(text: &str, longest: usize) -> String {
    let text = text.split(ECHO).next().unwrap_or_default();
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(longest).collect();
    if text.chars().count() > longest {
        line.push('…');
    }
    line.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(ends: Option<SystemTime>) -> Credentials {
        Credentials {
            access_key_id: "AKIDEXAMPLE".into(),
            secret_access_key: "secret".into(),
            session_token: None,
            ends,
        }
    }

    #[tokio::test]
    async fn credentials_that_are_over_are_none() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let of = |ends| Identity::fixed(given(Some(ends)), None);
        assert_eq!(of(now).credentials(now).await.err(), Some(Error::Expired));
        assert!(of(now + Duration::from_secs(1)).credentials(now).await.is_ok());
    }

    #[test]
    fn what_fails_is_one_line_and_says_whether_it_may_pass() {
        let failed = told(&CredentialsError::provider_error("exit status: 1. Stderr: no\nlogin\u{7}"));
        assert_eq!(
            failed.to_string(),
            "cannot load AWS credentials: exit status: 1. Stderr: no login; look at what provides them"
        );
        assert!(failed.passes());
        assert!(!told(&CredentialsError::invalid_configuration("loop")).passes());
        assert!(!told(&CredentialsError::not_loaded_no_source()).passes());
        assert!(told(&CredentialsError::provider_error("x".repeat(5000))).to_string().len() < 600);
    }
}
