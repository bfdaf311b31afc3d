//! Warehouse settings: the PostgreSQL database that the write step uses, and its connection budget.
//!
//! Never contains a password: credentials come from a Secret that is referenced by name.
//! The connection budget is one of the bounds on the number of workers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    addresses::{HOSTS_PATTERN, is_port, is_space},
    names::{MAX_OBJECT_NAME_LENGTH, OBJECT_NAME_PATTERN},
    rules::{immutable_database, message, rule_at},
};

/// PostgreSQL database that the stage writes to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule_at(
    ".connectionBudget",
    "!has(self.connectionBudget) || self.connectionBudget >= self.connectionsPerWorker",
    message::CONNECTION_BUDGET,
)]))]
pub struct Warehouse {
    /// Host name or IP address of the server, or several separated by commas, each with an optional port, such as
    /// `db-a,db-b:5433,[2001:db8::1]:5432`. The worker uses the first one that accepts writes, as libpq does with
    /// `target_session_attrs=read-write`, and tries the others after a failover. Mutable, as `port` is, for a failover or a
    /// move of the same database: the positions must be in it, or the stage reads its topic again.
    #[schemars(length(min = 1, max = 1024), regex(pattern = HOSTS_PATTERN))]
    pub host: String,

    /// TCP port of every host without a port of its own. Default: 5432.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,

    /// Name of the database; `worker migrate` creates the schemas in it. Immutable, because the positions are stored in it.
    #[schemars(length(min = 1, max = 63), extend("x-kubernetes-validations" = immutable_database()))]
    pub database: String,

    /// TLS mode of the connections, as libpq's `sslmode`. The server receives the password itself only if its certificate
    /// is verified; with the other modes it must use `scram-sha-256`. Default: `verify-full`.
    #[serde(default)]
    pub ssl_mode: SslMode,

    /// Name of the Secret with the PostgreSQL credentials, in the same namespace.
    /// Keys: `username`, `password`; optional: `ca.crt` (trusted CA certificates; required for `verify-ca`),
    /// `tls.crt` and `tls.key` (client certificate and key, PEM).
    /// If omitted, the worker uses `PGUSER`, `PGPASSWORD` and the other libpq variables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_OBJECT_NAME_LENGTH), regex(pattern = OBJECT_NAME_PATTERN))]
    pub auth_secret_name: Option<String>,

    /// Connections per worker: 1, or 2 to write one batch while the next one starts. Default: 2.
    #[serde(default = "default_connections_per_worker")]
    #[schemars(range(min = 1, max = 2))]
    pub connections_per_worker: u32,

    /// Maximum number of connections of the workers of all stages that name the same `host`, `port` and `database`. The
    /// smallest value of the stages in the namespace counts. The operator gives these stages equally many workers, within
    /// their `minReplicas` and `maxReplicas`. Default: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub connection_budget: Option<u32>,
}

impl Warehouse {
    /// Hosts in the order of preference, each with its port; `None` in place of one that is malformed.
    pub fn hosts(&self) -> impl Iterator<Item = Option<(&str, u16)>> {
        self.host.split(',').map(|host| parse_host(host, self.port))
    }
}

/// Splits a host into address and port. Brackets enclose an IPv6 address that a port may follow.
pub(super) fn parse_host(text: &str, default_port: u16) -> Option<(&str, u16)> {
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            let port = rest.strip_prefix(':');
            (address, if rest.is_empty() { None } else { Some(port?) })
        }
        None if text.matches(':').count() > 1 => {
            let is_ipv6 = text
                .bytes()
                .all(|byte| byte.is_ascii_hexdigit() || b":.".contains(&byte));
            return is_ipv6.then_some((text, default_port));
        }
        None => text
            .split_once(':')
            .map_or((text, None), |(address, port)| (address, Some(port))),
    };
    let is_address = !address.is_empty() && !address.contains(|c: char| is_space(c) || "[]".contains(c));
    let port = match port {
        None => default_port,
        Some(digits) => digits.parse().ok().filter(|_| is_port(digits))?,
    };
    is_address.then_some((address, port))
}

/// TLS mode of a PostgreSQL connection, with the values of libpq's `sslmode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum SslMode {
    /// Without TLS.
    Disable,
    /// TLS if the server supports it.
    Prefer,
    /// TLS required; the certificate is not verified.
    Require,
    /// TLS required; the certificate must be signed by a CA of the key `ca.crt`, for any host name.
    VerifyCa,
    /// TLS required; the certificate must be signed by a trusted CA, and match the host name.
    #[default]
    VerifyFull,
}

fn default_port() -> u16 {
    5432
}

fn default_connections_per_worker() -> u32 {
    2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_a_port_of_its_own_or_the_port_of_the_warehouse() {
        for (text, expected) in [
            ("db", Some(("db", 5432))),
            ("db:5433", Some(("db", 5433))),
            ("10.0.0.1:6432", Some(("10.0.0.1", 6432))),
            ("::1", Some(("::1", 5432))),
            ("[::1]", Some(("::1", 5432))),
            ("[::1]:5433", Some(("::1", 5433))),
            ("/var/run/postgresql", Some(("/var/run/postgresql", 5432))),
            ("", None),
            (":5432", None),
            ("db:", None),
            ("db:0", None),
            ("db:65536", None),
            ("db:+1", None),
            ("db:port", None),
            ("a b", None),
            ("[::1", None),
            ("[::1]5432", None),
            ("a:b:c", Some(("a:b:c", 5432))),
            ("x:y:z", None),
        ] {
            assert_eq!(parse_host(text, 5432), expected, "{text}");
        }
    }
}
