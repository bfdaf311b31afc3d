//! Warehouse settings: the PostgreSQL database that the write step uses, and its connection budget.
//!
//! Never contains a password: credentials come from a Secret that is referenced by name.
//! The connection budget is one of the bounds on the number of workers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{message, rule_at};

/// PostgreSQL database that the stage writes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule_at(
    ".connectionBudget",
    "!has(self.connectionBudget) || self.connectionBudget >= self.connectionsPerWorker",
    message::CONNECTION_BUDGET,
)]))]
pub struct Warehouse {
    /// Host name or IP address of the server.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,

    /// TCP port of the server. Default: 5432.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,

    /// Name of the database; `worker migrate` creates the schemas in it.
    #[schemars(length(min = 1, max = 63))]
    pub database: String,

    /// TLS mode of the connections, as libpq's `sslmode`. Default: `prefer`.
    #[serde(default)]
    pub ssl_mode: SslMode,

    /// Name of the Secret with the PostgreSQL credentials, in the same namespace.
    /// Keys: `username`, `password`; optional: `ca.crt` (for `verify-ca` and `verify-full`),
    /// `tls.crt` and `tls.key` (client certificate and key, PEM).
    /// If omitted, the worker uses `PGUSER`, `PGPASSWORD` and the other libpq variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub auth_secret_name: Option<String>,

    /// Connections per worker: 1, or 2 to write one batch while the next one starts. Default: 2.
    #[serde(default = "default_connections_per_worker")]
    #[schemars(range(min = 1, max = 2))]
    pub connections_per_worker: u32,

    /// Maximum number of connections of all workers of this stage together. It limits the workers to
    /// `connectionBudget / connectionsPerWorker`. Default: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub connection_budget: Option<u32>,
}

/// TLS mode of a PostgreSQL connection, with the values of libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum SslMode {
    /// Without TLS.
    Disable,
    /// TLS if the server supports it.
    #[default]
    Prefer,
    /// TLS required; the certificate is not verified.
    Require,
    /// TLS required; the server certificate must be signed by a trusted CA.
    VerifyCa,
    /// Same as `verify-ca`, and the certificate must match the host name.
    VerifyFull,
}

fn default_port() -> u16 {
    5432
}

fn default_connections_per_worker() -> u32 {
    2
}
