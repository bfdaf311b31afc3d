#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads secrets and sets up the clients"
)]
//! Client settings for the dependencies of a stage, from its spec and the Secrets that the spec names.
//!
//! A Secret is a directory with one file per key, as Kubernetes mounts it. A stage without a Secret uses the usual
//! environment variables. An error or log line never contains the value of a key.
//!
//! [`crds::kafka::sasl_tls`] (`crds/src/kafka/sasl_tls.rs`) derives the SASL and TLS settings for Kafka. To support
//! another mechanism, follow "Add a SASL mechanism" in `CONTRIBUTING.md`.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use crds::StreamStage;
use crds::kafka::sasl_tls::{self, InvalidKey, KafkaKeys, PemSource};
use crds::secret::{ALLOW_PLAINTEXT, key_value, permits_plaintext};
use crds::stage::{ReferenceData, SslMode};
use rdkafka::ClientConfig;
use redis::io::tcp::TcpSettings;
use redis::{IntoConnectionInfo as _, TlsCertificates};
use sqlx::postgres::PgConnectOptions;

use crate::postgres_host::{PostgresHost, TlsFiles};
use crate::redis_connection::{REDIS_TIMEOUT, RedisConnection};

/// Error in the connection settings of a stage.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The directory of a Secret that the stage names does not exist.
    #[error(
        "SecretNotFound: {field} names the Secret {secret:?}, but the directory {directory} does not exist; mount the \
         Secret, or set --secrets-dir"
    )]
    SecretNotFound {
        /// Field that names the Secret.
        field: &'static str,
        /// Name of the Secret.
        secret: String,
        /// Expected directory.
        directory: PathBuf,
    },
    /// A file of a Secret cannot be read.
    #[error("cannot read {file}: {source}; check its permissions")]
    Unreadable {
        /// Path of the file.
        file: PathBuf,
        /// Cause.
        source: std::io::Error,
    },
    /// A certificate or key begins with a byte order mark.
    #[error("{file} begins with a byte order mark, which is not PEM; save it as UTF-8 without one")]
    ByteOrderMark {
        /// Path of the file.
        file: PathBuf,
    },
    /// A key of a Secret is missing or has an invalid value.
    #[error("{field}: the key {key} {cause}")]
    InvalidKey {
        /// Field that names the Secret.
        field: &'static str,
        /// Name of the key.
        key: &'static str,
        /// Cause and remedy, without the value.
        cause: &'static str,
    },
    /// The URL of the reference data is invalid.
    #[error("spec.referenceData.url: {0}; use redis://host:6379/0, or rediss:// for TLS")]
    ReferenceDataUrl(redis::RedisError),
}

/// Directory with the Secrets of a stage file.
#[derive(Clone, Debug)]
pub struct Secrets {
    directory: PathBuf,
}

impl Secrets {
    /// Secrets in the subdirectories of this directory.
    #[must_use]
    pub fn in_directory(directory: &Path) -> Self {
        Self {
            directory: directory.to_owned(),
        }
    }

    /// Loads the Secret that `field` names. Without a name, the keys come from environment variables.
    fn load(&self, field: &'static str, secret: Option<&str>) -> Result<SecretKeys, ConnectError> {
        let Some(secret) = secret else {
            return Ok(SecretKeys { directory: None });
        };
        let directory = self.directory.join(secret);
        if directory.is_dir() {
            let directory = Some(directory);
            return Ok(SecretKeys { directory });
        }
        Err(ConnectError::SecretNotFound {
            field,
            secret: secret.to_owned(),
            directory,
        })
    }
}

/// Keys of one Secret, or environment variables in place of them.
struct SecretKeys {
    /// `None` selects the environment variables.
    directory: Option<PathBuf>,
}

impl SecretKeys {
    /// Reads the value of a key, or its environment variable. `None` if it is not set.
    fn value(&self, key: &str, variable: &str) -> Result<Option<String>, ConnectError> {
        let Some(directory) = &self.directory else {
            return Ok(std::env::var(variable).ok());
        };
        let file = directory.join(key);
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(Some(key_value(&text).to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ConnectError::Unreadable { file, source }),
        }
    }

    /// Returns the path of a key's PEM file, or the path in its environment variable. `None` if it is not set.
    ///
    /// The clients read the file themselves. They would skip a first certificate after a byte order mark silently.
    fn file(&self, key: &str, variable: &str) -> Result<Option<PathBuf>, ConnectError> {
        let file = match &self.directory {
            Some(directory) => Some(directory.join(key)).filter(|file| file.is_file()),
            None => std::env::var_os(variable).map(PathBuf::from),
        };
        match file {
            Some(file) if has_byte_order_mark(&file) => Err(ConnectError::ByteOrderMark { file }),
            file => Ok(file),
        }
    }
}

/// Returns true if a file begins with a byte order mark. A file that cannot be read is reported by the client.
fn has_byte_order_mark(file: &Path) -> bool {
    let mut start = [0; 3];
    let read = std::fs::File::open(file).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == *b"\xef\xbb\xbf"
}

/// `client.id` of a worker. In a cluster it has the name of the pod, by which the operator names a slow member.
fn client_id(stage: &str, host_name: Option<String>) -> String {
    let pod = host_name.filter(|name| name.starts_with(&format!("{stage}-worker-")));
    format!("streamstage-{}", pod.as_deref().unwrap_or(stage))
}

/// Returns the client settings for the stage's Kafka: servers, security protocol and credentials.
///
/// Keys of the Secret (and variables without a Secret): `security.protocol` (`KAFKA_SECURITY_PROTOCOL`),
/// `mechanism` (`KAFKA_SASL_MECHANISM`), `username` (`KAFKA_USERNAME`), `password` (`KAFKA_PASSWORD`),
/// `allow.plaintext` (`KAFKA_ALLOW_PLAINTEXT`), and as files `ca.crt` (`KAFKA_CA_FILE`), `tls.crt`
/// (`KAFKA_CERTIFICATE_FILE`), `tls.key` (`KAFKA_KEY_FILE`).
/// The default protocol is `SASL_SSL` with a `username`, else `SSL` with a `ca.crt` or a `tls.crt`, else `PLAINTEXT`.
///
/// # Errors
/// If the Secret cannot be read, or a key is missing or invalid.
pub fn kafka_config(stage: &StreamStage, secrets: &Secrets) -> Result<ClientConfig, ConnectError> {
    let keys = secrets.load(
        "spec.source.authSecretName",
        stage.spec.source.auth_secret_name.as_deref(),
    )?;
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", stage.spec.source.bootstrap_servers.join(","))
        .set(
            "client.id",
            client_id(stage.name(), std::env::var("HOSTNAME").ok()),
        )
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set("reconnect.backoff.max.ms", "2000")
        .set("socket.keepalive.enable", "true")
        // A broker that does not answer within this time is disconnected; the default is a minute.
        .set("socket.timeout.ms", "10000");
    let path = |file: Option<PathBuf>| file.map(|file| file.to_string_lossy().into_owned());
    let keys = KafkaKeys {
        username: keys.value("username", "KAFKA_USERNAME")?,
        password: keys.value("password", "KAFKA_PASSWORD")?,
        mechanism: keys.value("mechanism", "KAFKA_SASL_MECHANISM")?,
        protocol: keys.value("security.protocol", "KAFKA_SECURITY_PROTOCOL")?,
        allow_plaintext: keys.value(ALLOW_PLAINTEXT, "KAFKA_ALLOW_PLAINTEXT")?,
        ca_certificate: path(keys.file("ca.crt", "KAFKA_CA_FILE")?),
        client_certificate: path(keys.file("tls.crt", "KAFKA_CERTIFICATE_FILE")?),
        client_key: path(keys.file("tls.key", "KAFKA_KEY_FILE")?),
    };
    let settings =
        sasl_tls::client_settings(keys, PemSource::File).map_err(|InvalidKey { key, cause }| {
            ConnectError::InvalidKey {
                field: "spec.source.authSecretName",
                key,
                cause,
            }
        })?;
    for (name, value) in settings {
        config.set(name, value);
    }
    Ok(config)
}

/// Adds the settings of a consumer to those of [`kafka_config`].
#[must_use]
pub fn consumer_config(stage: &StreamStage, mut config: ClientConfig) -> ClientConfig {
    config
        .set("group.id", stage.consumer_group())
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // The fetcher reads the records; the partitions of this client are paused, and start at their ends.
        .set("auto.offset.reset", "latest")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "10000")
        .set("heartbeat.interval.ms", "1000");
    config
}

/// Returns the hosts of the stage's warehouse, in the order of preference.
///
/// Keys of the Secret (and variables without a Secret): `username` (`PGUSER`), `password` (`PGPASSWORD`), and as files
/// `ca.crt` (`PGSSLROOTCERT`), `tls.crt` (`PGSSLCERT`), `tls.key` (`PGSSLKEY`).
///
/// # Errors
/// If the Secret cannot be read, or lacks a key that the TLS mode needs.
pub fn postgres_hosts(stage: &StreamStage, secrets: &Secrets) -> Result<Vec<PostgresHost>, ConnectError> {
    let warehouse = &stage.spec.warehouse;
    let keys = secrets.load(
        "spec.warehouse.authSecretName",
        warehouse.auth_secret_name.as_deref(),
    )?;
    let mut options = PgConnectOptions::new_without_pgpass()
        .database(&warehouse.database)
        .application_name(&format!("streamstage {}", stage.name()))
        // PgBouncer rejects this startup parameter; it affects values in text form only.
        .extra_float_digits(None);
    if let Some(user) = keys.value("username", "PGUSER")? {
        options = options.username(&user);
    }
    if let Some(password) = keys.value("password", "PGPASSWORD")? {
        options = options.password(&password);
    }
    let invalid = |key, cause| ConnectError::InvalidKey {
        field: "spec.warehouse.authSecretName",
        key,
        cause,
    };
    let certificate = keys.file("tls.crt", "PGSSLCERT")?;
    let key = keys.file("tls.key", "PGSSLKEY")?;
    if certificate.is_some() != key.is_some() {
        return Err(invalid("tls.key", "must be set together with tls.crt"));
    }
    let files = TlsFiles {
        ca_certificate: keys.file("ca.crt", "PGSSLROOTCERT")?,
        client: certificate.zip(key),
    };
    if warehouse.ssl_mode == SslMode::VerifyCa && files.ca_certificate.is_none() {
        let cause = "is missing but required for verify-ca, because a public authority signs certificates for anyone: \
                     add it, or set spec.warehouse.sslMode to verify-full";
        return Err(invalid("ca.crt", cause));
    }
    let hosts = warehouse.hosts().flatten();
    Ok(hosts
        .map(|(host, port)| {
            let options = options.clone().host(host).port(port);
            PostgresHost::new(options, warehouse.ssl_mode, files.clone())
        })
        .collect())
}

/// Returns a connection to the stage's reference data. It connects at the first request and reconnects automatically.
///
/// Keys of the Secret (and variables without a Secret): `username` (`REDIS_USERNAME`), `password`
/// (`REDIS_PASSWORD`), `allow.plaintext` (`REDIS_ALLOW_PLAINTEXT`), and as a file `ca.crt` (`REDIS_CA_FILE`).
///
/// # Errors
/// If the Secret cannot be read, the URL is invalid, or the password would be sent without TLS.
pub fn redis_connection(
    reference_data: &ReferenceData,
    secrets: &Secrets,
) -> Result<RedisConnection, ConnectError> {
    let keys = secrets.load(
        "spec.referenceData.authSecretName",
        reference_data.auth_secret_name.as_deref(),
    )?;
    let info = reference_data
        .url
        .as_str()
        .into_connection_info()
        .map_err(ConnectError::ReferenceDataUrl)?;
    let mut settings = info.redis_settings().clone();
    if let Some(user) = keys.value("username", "REDIS_USERNAME")? {
        settings = settings.set_username(user);
    }
    let password = keys.value("password", "REDIS_PASSWORD")?;
    let allow_plaintext = keys.value(ALLOW_PLAINTEXT, "REDIS_ALLOW_PLAINTEXT")?;
    if let Some(password) = password {
        if !reference_data.uses_tls() && !permits_plaintext(allow_plaintext.as_deref()) {
            return Err(ConnectError::InvalidKey {
                field: "spec.referenceData.authSecretName",
                key: "password",
                cause: "would be sent in clear text: use rediss://, or set the key allow.plaintext to true",
            });
        }
        settings = settings.set_password(password);
    }
    // Without a limit, the system would repeat a request on a broken connection for a quarter of an hour.
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_user_timeout(REDIS_TIMEOUT);
    let info = info.set_redis_settings(settings).set_tcp_settings(tcp);
    let client = match keys.file("ca.crt", "REDIS_CA_FILE")? {
        None => redis::Client::open(info),
        Some(file) => {
            let ca_certificate =
                std::fs::read(&file).map_err(|source| ConnectError::Unreadable { file, source })?;
            redis::Client::build_with_tls(
                info,
                TlsCertificates {
                    client_tls: None,
                    root_cert: Some(ca_certificate),
                },
            )
        }
    };
    client
        .and_then(RedisConnection::new)
        .map_err(ConnectError::ReferenceDataUrl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_id_has_the_name_of_the_pod_in_a_cluster_and_of_the_stage_elsewhere() {
        for (host_name, expected) in [
            (Some("stg-worker-7d9f-x2"), "streamstage-stg-worker-7d9f-x2"),
            (Some("a-laptop"), "streamstage-stg"),
            (None, "streamstage-stg"),
        ] {
            assert_eq!(client_id("stg", host_name.map(str::to_owned)), expected);
        }
    }
}
