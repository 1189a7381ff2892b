//! Stores: where they are, how to log in, how hard they may be asked.

use std::path::PathBuf;
use std::time::Duration;

use crate::secret::SecretBytes;

/// How one store is reached.
#[derive(Clone)]
pub enum StoreConfig {
    /// A YAML, JSON or dotenv file, or a directory with one file a field.
    File(FileStore),
    /// HashiCorp Vault or OpenBao.
    Vault(Box<VaultStore>),
    /// AWS Secrets Manager.
    Aws(Box<AwsStore>),
}

/// `type: file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStore {
    /// The file or directory, absolute.
    pub path: PathBuf,
}

/// `type: vault`.
#[derive(Clone, PartialEq, Eq)]
pub struct VaultStore {
    /// Base URL, or `unix:///path`.
    pub address: String,
    /// `X-Vault-Namespace`.
    pub namespace: Option<String>,
    /// TLS settings.
    pub tls: TlsConfig,
    /// How to log in.
    pub auth: VaultAuth,
    /// What becomes of leases when the agent stops.
    pub on_stop: OnStop,
    /// How often a lease is looked up, to notice one that was revoked by somebody else. Zero: never.
    pub lease_check: Duration,
    /// How hard the server may be asked.
    pub limits: Limits,
    /// Bound on one request.
    pub timeout: Duration,
}

/// `on_stop` of a store with leases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnStop {
    /// They live on, for the processes that use them and for the next start.
    Keep,
    /// They are revoked, and so is a token that came from a login.
    Revoke,
}

/// `limits` of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests in flight at once, at least 1.
    pub in_flight: usize,
    /// Requests a second on the average (bursts of as many are let through), at least 1.
    pub per_second: u32,
}

/// TLS settings of a client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsConfig {
    /// PEM file with the CA certificates to trust instead of the system's.
    pub ca_cert: Option<PathBuf>,
    /// Folder of such files, where there is no `ca_cert` (only from `VAULT_CAPATH`).
    pub ca_path: Option<PathBuf>,
    /// PEM file with the client certificate chain.
    pub client_cert: Option<PathBuf>,
    /// PEM file with the client key.
    pub client_key: Option<PathBuf>,
    /// Name to verify instead of the address's host.
    pub server_name: Option<String>,
    /// Trust whoever answers (only from `VAULT_SKIP_VERIFY`; the config warns).
    pub skip_verify: bool,
}

/// `auth` of a Vault store.
#[derive(Clone, PartialEq, Eq)]
pub enum VaultAuth {
    /// A token from the config or `VAULT_TOKEN`, or (None) from `~/.vault-token`, where `vault login` leaves it.
    Token {
        /// The token.
        token: Option<SecretBytes>,
    },
    /// A token read from a file, again whenever it is replaced.
    TokenFile {
        /// The file.
        path: PathBuf,
    },
    /// AppRole.
    AppRole {
        /// Mount, by default `approle`.
        mount: String,
        /// File with the role id.
        role_id_file: PathBuf,
        /// File with the secret id.
        secret_id_file: Option<PathBuf>,
        /// Whether the secret id is a wrapping token.
        wrapped: bool,
    },
    /// Kubernetes service account, or JWT: the same login with another mount.
    Jwt {
        /// Mount, by default `kubernetes` or `jwt`.
        mount: String,
        /// Role.
        role: String,
        /// File with the token, read anew at each login.
        token_file: PathBuf,
    },
    /// TLS client certificate (from `tls`).
    Cert {
        /// Mount, by default `cert`.
        mount: String,
        /// Role.
        name: Option<String>,
    },
    /// Username and password.
    Userpass {
        /// Mount, by default `userpass`.
        mount: String,
        /// User.
        username: String,
        /// File with the password.
        password_file: PathBuf,
    },
    /// AWS IAM.
    AwsIam {
        /// Mount, by default `aws`.
        mount: String,
        /// Role.
        role: Option<String>,
        /// `X-Vault-AWS-IAM-Server-ID`.
        header_value: Option<String>,
        /// What the request is signed for; None: us-east-1, at STS's global endpoint.
        region: Option<AwsRegion>,
    },
}

/// Where AWS is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AwsRegion {
    /// `auto`: AWS_REGION, the profile's, the instance's own.
    Auto,
    /// This one.
    Named(String),
}

/// `type: aws-secrets-manager`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwsStore {
    /// Region, else the SDK's chain.
    pub region: Option<String>,
    /// Regions to fall back to, in order.
    pub regions: Vec<String>,
    /// Named profile.
    pub profile: Option<String>,
    /// Role to assume.
    pub role_arn: Option<String>,
    /// Endpoint instead of AWS's.
    pub endpoint_url: Option<String>,
    /// SQS queue fed by EventBridge.
    pub queue_url: Option<String>,
    /// Bound on one request.
    pub timeout: Duration,
}
