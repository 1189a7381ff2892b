//! `stores` and `secrets`.

use crate::config::decode::{At, Table, record, union};
use crate::config::model::OnStop;
use crate::config::raw::targets::RawRequest;
use crate::config::scalar::{FilePath, Json, Pattern, Span, Tera, Text, Whole};

union! {
    /// How one store is reached.
    pub enum RawStore {
        "file" => File(RawFileStore),
        "vault" => Vault(RawVault),
        "aws-secrets-manager" => Aws(RawAws),
    }
}

record! {
    /// A local file or folder; watched, not polled.
    pub struct RawFileStore {
        /// A YAML or JSON file of secrets by name, a dotenv file that is one secret, or a folder with one file a field.
        path: FilePath,
    }
}

record! {
    /// HashiCorp Vault or OpenBao.
    pub struct RawVault {
        /// Base URL, or `unix:///path`; by default VAULT_ADDR.
        address: Option<Text>,
        /// Namespace; by default VAULT_NAMESPACE.
        namespace: Option<Text>,
        /// TLS settings; by default those of VAULT_CACERT, VAULT_CLIENT_CERT, VAULT_CLIENT_KEY and VAULT_TLS_SERVER_NAME.
        tls: Option<RawTls>,
        /// How to log in; by default with the token in VAULT_TOKEN, else the one in `~/.vault-token`.
        auth: Option<RawAuth>,
        /// What becomes of leases when the agent stops.
        on_stop: OnStop = "keep",
        /// How often each lease is looked up, to notice one that somebody else revoked; 0s: never.
        lease_check: Span<0> = "60s",
        /// How hard the server may be asked.
        limits: Option<RawLimits>,
        /// Bound on one request; by default VAULT_CLIENT_TIMEOUT, else 30s.
        timeout: Option<Span<1>>,
    }
}

record! {
    /// How hard a server may be asked.
    pub struct RawLimits {
        /// Requests in flight at once.
        in_flight: Whole<1, 1000> = 8,
        /// Requests a second on the average; bursts of as many are let through.
        per_second: Whole<1, 10000> = 20,
    }
}

record! {
    /// TLS settings of a client.
    pub struct RawTls {
        /// PEM file with the CA certificates to trust instead of the system's.
        ca_cert: Option<FilePath>,
        /// PEM file with the client's certificate chain.
        client_cert: Option<FilePath>,
        /// PEM file with the client's key.
        client_key: Option<FilePath>,
        /// Name to verify instead of the address's host.
        server_name: Option<Text>,
    }
}

union! {
    /// How to log in.
    pub enum RawAuth {
        "token" => Token(RawToken),
        "token-file" => TokenFile(RawTokenFile),
        "approle" => AppRole(RawAppRole),
        "kubernetes" => Kubernetes(RawKubernetes),
        "jwt" => Jwt(RawJwt),
        "cert" => Cert(RawCert),
        "userpass" => Userpass(RawUserpass),
        "aws" => Aws(RawAwsIam),
    }
}

record! {
    /// With a token.
    pub struct RawToken {
        /// The token; by default VAULT_TOKEN, else the one in `~/.vault-token`. Better `${VAR}` than the token itself.
        token: Option<Text>,
    }
}

record! {
    /// With a token from a file, read again whenever it is replaced.
    pub struct RawTokenFile {
        /// The file.
        path: FilePath,
    }
}

record! {
    /// With AppRole.
    pub struct RawAppRole {
        /// Where the auth method is mounted.
        mount: Text = "approle",
        /// File with the role id.
        role_id_file: FilePath,
        /// File with the secret id, where the role asks for one.
        secret_id_file: Option<FilePath>,
        /// Whether the secret id's file holds a wrapping token.
        wrapped: bool = false,
    }
}

record! {
    /// With the service account of a Kubernetes pod.
    pub struct RawKubernetes {
        /// Where the auth method is mounted.
        mount: Text = "kubernetes",
        /// Role.
        role: Text,
        /// File with the service account's token, read anew at each login.
        token_file: FilePath = "/var/run/secrets/kubernetes.io/serviceaccount/token",
    }
}

record! {
    /// With a JWT.
    pub struct RawJwt {
        /// Where the auth method is mounted.
        mount: Text = "jwt",
        /// Role.
        role: Text,
        /// File with the token, read anew at each login.
        token_file: FilePath,
    }
}

record! {
    /// With the client certificate of `tls`.
    pub struct RawCert {
        /// Where the auth method is mounted.
        mount: Text = "cert",
        /// Certificate role; by default the server picks one that fits.
        name: Option<Text>,
    }
}

record! {
    /// With username and password.
    pub struct RawUserpass {
        /// Where the auth method is mounted.
        mount: Text = "userpass",
        /// Username.
        username: Text,
        /// File with the password.
        password_file: FilePath,
    }
}

record! {
    /// With AWS IAM.
    pub struct RawAwsIam {
        /// Where the auth method is mounted.
        mount: Text = "aws",
        /// Role; by default the server picks the one named as the principal.
        role: Option<Text>,
        /// Value of X-Vault-AWS-IAM-Server-ID, where the server asks for it.
        header_value: Option<Text>,
        /// Region of STS, as the server expects it; by default us-east-1 and the global endpoint, as `vault login` has it.
        /// `auto`: AWS_REGION, the profile's, the instance's own.
        region: Option<Text>,
    }
}

record! {
    /// AWS Secrets Manager. What is not set comes from the SDK's own chain (AWS_REGION, AWS_PROFILE, …).
    pub struct RawAws {
        /// Region.
        region: Option<Text>,
        /// Regions to fall back to, in order.
        regions: Option<Vec<At<Text>>>,
        /// Profile of the shared config.
        profile: Option<Text>,
        /// ARN of a role to assume.
        role_arn: Option<Text>,
        /// Endpoint instead of AWS's.
        endpoint_url: Option<Text>,
        /// Where changes are announced.
        events: Option<RawEvents>,
        /// Bound on one request to one region.
        timeout: Span<1> = "10s",
    }
}

record! {
    /// Changes announced through EventBridge.
    pub struct RawEvents {
        /// URL of the SQS queue.
        queue_url: Text,
    }
}

record! {
    /// One secret: where it is, how often it is read, and what its values must be like.
    pub struct RawSecret {
        /// Name of the store; may be left out where exactly one is declared.
        store: Option<Text>,
        /// File store: the secret's name in the file, by default its name here. AWS: dotted path into nested JSON.
        key: Option<Text>,
        /// Vault: the path as in `vault kv get`: mount first, no data/.
        path: Option<Text>,
        /// Vault: request parameters, for engines that take some.
        params: Option<Table<Json>>,
        /// AWS: name or ARN.
        id: Option<Text>,
        /// AWS: staging label, by default AWSCURRENT.
        stage: Option<Text>,
        /// AWS: version id instead of a label.
        version_id: Option<Text>,
        /// How often it is read, at least 1s; by default 60s for Vault, 5m for AWS, and never for a file, which is watched.
        poll: Option<Span<1000>>,
        /// How long the version before stays available as `previous.NAME` after a change. It does not end while every target refuses the newest version. Of a file store it outlives a restart only with `state_key`, or with state_dir on a tmpfs.
        overlap: Span<0> = "0s",
        /// Age after which it is reported as overdue.
        max_age: Option<Span<1>>,
        /// Field -> pattern that must be found in its value before anything is published; `^` and `$` anchor it.
        expect: Option<Table<Pattern>>,
        /// What is asked with the new value before anything is published. A committed version is asked about again only where the request has become another one.
        verify: Option<RawVerify>,
    }
}

record! {
    /// A question that the new value must pass.
    pub struct RawVerify {
        /// An HTTP request.
        http: RawVerifyHttp,
    }
}

record! {
    /// An HTTP request with the new value.
    pub struct RawVerifyHttp {
        /// `http://…`, `https://…`, or `unix:/socket:/path`.
        url: Tera,
        /// Bound on one attempt.
        timeout: Span<1> = "10s",
        ..request: RawRequest,
    }
}
