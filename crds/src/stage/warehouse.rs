//! Where a stage writes: the PostgreSQL server and how many connections it may use.
//!
//! Must never hold a password: credentials are named by Secret.
//! The target of the write step; the connection budget is one of the caps on the number of workers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rules::{message, rule_at};

/// The PostgreSQL database that the stage writes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule_at(
    ".connectionBudget",
    "!has(self.connectionBudget) || self.connectionBudget >= self.connectionsPerWorker",
    message::CONNECTION_BUDGET,
)]))]
pub struct Warehouse {
    /// Host name or address of the server.
    #[schemars(length(min = 1, max = 253))]
    pub host: String,

    /// TCP port of the server. Default: 5432.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,

    /// Name of the database; `worker migrate` creates the schemas in it.
    #[schemars(length(min = 1, max = 63))]
    pub database: String,

    /// Whether the connection is encrypted and the server's certificate checked. Default: `prefer`.
    #[serde(default)]
    pub ssl_mode: SslMode,

    /// Name of a Secret in the same namespace with the credentials for PostgreSQL.
    /// Keys: `username`, `password`, and, optional, `ca.crt` (for `verify-ca` and `verify-full`),
    /// `tls.crt` and `tls.key` (the client's certificate and key, PEM).
    /// None: the worker takes `PGUSER`, `PGPASSWORD` and the other usual variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    pub auth_secret: Option<String>,

    /// Connections that one worker opens: 1, or 2 to write one batch while the next begins. Default: 2.
    #[serde(default = "default_connections_per_worker")]
    #[schemars(range(min = 1, max = 2))]
    pub connections_per_worker: u32,

    /// Connections that all workers of this stage may open together: caps the number of workers at
    /// `connectionBudget / connectionsPerWorker`. Default: no cap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub connection_budget: Option<u32>,
}

/// How a connection to PostgreSQL is encrypted, in the words of libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server offers it.
    #[default]
    Prefer,
    /// Encrypted, or no connection.
    Require,
    /// Encrypted, and the server's certificate is signed by a trusted authority.
    VerifyCa,
    /// As `verify-ca`, and the certificate is for this host.
    VerifyFull,
}

fn default_port() -> u16 {
    5432
}

fn default_connections_per_worker() -> u32 {
    2
}
