#![expect(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "edge: reads secrets and sets up the clients"
)]
//! How a stage reaches its services: its document, and the secrets that the document names.
//!
//! A secret is a folder with one file per key, as Kubernetes mounts it. A stage that names none takes the
//! environment's usual variables. No value of a secret ever stands in an error or in the log.

use std::path::{Path, PathBuf};

use crds::StreamStage;
use crds::kafka_security::{self, BadKey, KafkaKeys, Pem};
use crds::stage::SslMode;
use rdkafka::ClientConfig;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{IntoConnectionInfo as _, TlsCertificates};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// How long Redis may take for an answer, or for a connection.
const REDIS_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// Why a stage cannot be connected.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A secret that the stage names is not there.
    #[error(
        "SecretNotFound: {field} names the secret {secret:?}, but there is no folder {folder}; mount it, or give --secrets-dir"
    )]
    SecretNotFound {
        /// The field of the document.
        field: &'static str,
        /// The secret.
        secret: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A file of a secret cannot be read.
    #[error("cannot read {file}: {source}")]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key of a secret has a value that nothing can be done with, or is missing.
    #[error("{field}: the key {key}: {cause}")]
    BadKey {
        /// The field of the document that names the secret.
        field: &'static str,
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        cause: &'static str,
    },
    /// The dictionary's address is none.
    #[error("spec.dictionary.url: {0}; it should be like redis://host:6379/0, or rediss:// for TLS")]
    DictionaryUrl(redis::RedisError),
}

/// Where the secrets of a document are.
#[derive(Clone, Debug)]
pub struct Secrets {
    folder: PathBuf,
}

impl Secrets {
    /// Secrets below this folder.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
        }
    }

    /// The keys of the secret that `field` names, or of the environment when it names none.
    fn open(&self, field: &'static str, secret: Option<&str>) -> Result<Keys, ConnectError> {
        let Some(secret) = secret else {
            return Ok(Keys { folder: None });
        };
        let folder = self.folder.join(secret);
        if folder.is_dir() {
            return Ok(Keys { folder: Some(folder) });
        }
        Err(ConnectError::SecretNotFound {
            field,
            secret: secret.to_owned(),
            folder,
        })
    }
}

/// The keys of one secret.
struct Keys {
    folder: Option<PathBuf>,
}

impl Keys {
    /// The value of a key, or of its environment variable.
    fn value(&self, key: &str, variable: &str) -> Result<Option<String>, ConnectError> {
        let Some(folder) = &self.folder else {
            return Ok(std::env::var(variable).ok());
        };
        let file = folder.join(key);
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(ConnectError::Unreadable { file, source }),
        }
    }

    /// The path of a key's file, or the path that its environment variable names.
    fn file(&self, key: &str, variable: &str) -> Option<PathBuf> {
        match &self.folder {
            Some(folder) => Some(folder.join(key)).filter(|file| file.is_file()),
            None => std::env::var_os(variable).map(PathBuf::from),
        }
    }
}

/// Client settings for the stage's Kafka: servers, security protocol and credentials.
///
/// Keys of the secret (and variables without one): `security.protocol` (`KAFKA_SECURITY_PROTOCOL`),
/// `mechanism` (`KAFKA_SASL_MECHANISM`), `username` (`KAFKA_USERNAME`), `password` (`KAFKA_PASSWORD`), and as
/// files `ca.crt` (`KAFKA_CA_FILE`), `tls.crt` (`KAFKA_CERTIFICATE_FILE`), `tls.key` (`KAFKA_KEY_FILE`).
/// The protocol is by default `SASL_SSL` with a `username`, else `SSL` with a `ca.crt` or a `tls.crt`, else
/// `PLAINTEXT`.
///
/// # Errors
/// When the secret cannot be read.
pub fn kafka(stage: &StreamStage, secrets: &Secrets) -> Result<ClientConfig, ConnectError> {
    let keys = secrets.open("spec.source.authSecret", stage.spec.source.auth_secret.as_deref())?;
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", stage.spec.source.bootstrap_servers.join(","))
        .set("client.id", format!("streamstage-{}", stage.name()))
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set("reconnect.backoff.max.ms", "2000");
    let path = |file: Option<PathBuf>| file.map(|file| file.to_string_lossy().into_owned());
    let keys = KafkaKeys {
        username: keys.value("username", "KAFKA_USERNAME")?,
        password: keys.value("password", "KAFKA_PASSWORD")?,
        mechanism: keys.value("mechanism", "KAFKA_SASL_MECHANISM")?,
        protocol: keys.value("security.protocol", "KAFKA_SECURITY_PROTOCOL")?,
        authority: path(keys.file("ca.crt", "KAFKA_CA_FILE")),
        certificate: path(keys.file("tls.crt", "KAFKA_CERTIFICATE_FILE")),
        certificate_key: path(keys.file("tls.key", "KAFKA_KEY_FILE")),
    };
    let settings =
        kafka_security::settings(keys, Pem::File).map_err(|BadKey { key, cause }| ConnectError::BadKey {
            field: "spec.source.authSecret",
            key,
            cause,
        })?;
    for (name, value) in settings {
        config.set(name, value);
    }
    Ok(config)
}

/// Settings of the consumer, on top of [`kafka`].
#[must_use]
pub fn consumer(stage: &StreamStage, mut config: ClientConfig) -> ClientConfig {
    config
        .set("group.id", stage.consumer_group())
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // A position that the log does not hold is an error here, never a silent jump.
        .set("auto.offset.reset", "error")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "10000")
        .set("heartbeat.interval.ms", "1000")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "100")
        // What is fetched ahead, and with it the memory of a worker that is behind, stays within a few batches. The
        // brokers count compressed bytes, per partition; here they are several times as many. A larger record comes all
        // the same, alone.
        .set("queued.max.messages.kbytes", "1024")
        .set("fetch.message.max.bytes", "65536")
        .set("fetch.max.bytes", "1048576")
        // With a queue this short, the default second of backoff would starve the path.
        .set("fetch.queue.backoff.ms", "5");
    config
}

/// Connection to the stage's warehouse.
///
/// Keys of the secret (and variables without one): `username` (`PGUSER`), `password` (`PGPASSWORD`), and as files
/// `ca.crt` (`PGSSLROOTCERT`), `tls.crt` (`PGSSLCERT`), `tls.key` (`PGSSLKEY`).
///
/// # Errors
/// When the secret cannot be read.
pub fn postgres(stage: &StreamStage, secrets: &Secrets) -> Result<PgConnectOptions, ConnectError> {
    let warehouse = &stage.spec.warehouse;
    let keys = secrets.open("spec.warehouse.authSecret", warehouse.auth_secret.as_deref())?;
    let mode = match warehouse.ssl_mode {
        SslMode::Disable => PgSslMode::Disable,
        SslMode::Prefer => PgSslMode::Prefer,
        SslMode::Require => PgSslMode::Require,
        SslMode::VerifyCa => PgSslMode::VerifyCa,
        SslMode::VerifyFull => PgSslMode::VerifyFull,
    };
    let mut options = PgConnectOptions::new_without_pgpass()
        .host(&warehouse.host)
        .port(warehouse.port)
        .database(&warehouse.database)
        .ssl_mode(mode)
        .application_name(&format!("streamstage {}", stage.name()));
    if let Some(user) = keys.value("username", "PGUSER")? {
        options = options.username(&user);
    }
    if let Some(password) = keys.value("password", "PGPASSWORD")? {
        options = options.password(&password);
    }
    if let Some(authority) = keys.file("ca.crt", "PGSSLROOTCERT") {
        options = options.ssl_root_cert(authority);
    }
    if let Some(certificate) = keys.file("tls.crt", "PGSSLCERT") {
        options = options.ssl_client_cert(certificate);
    }
    if let Some(key) = keys.file("tls.key", "PGSSLKEY") {
        options = options.ssl_client_key(key);
    }
    Ok(options)
}

/// Connection to the stage's dictionary, which opens when it is used and reconnects by itself.
///
/// Keys of the secret (and variables without one): `username` (`REDIS_USERNAME`), `password` (`REDIS_PASSWORD`),
/// and as a file `ca.crt` (`REDIS_CA_FILE`).
///
/// # Errors
/// When the secret cannot be read, or the address is none.
pub fn redis(
    dictionary: &crds::stage::Dictionary,
    secrets: &Secrets,
) -> Result<ConnectionManager, ConnectError> {
    let keys = secrets.open("spec.dictionary.authSecret", dictionary.auth_secret.as_deref())?;
    let info = dictionary
        .url
        .as_str()
        .into_connection_info()
        .map_err(ConnectError::DictionaryUrl)?;
    let mut settings = info.redis_settings().clone();
    if let Some(user) = keys.value("username", "REDIS_USERNAME")? {
        settings = settings.set_username(user);
    }
    if let Some(password) = keys.value("password", "REDIS_PASSWORD")? {
        settings = settings.set_password(password);
    }
    let info = info.set_redis_settings(settings);
    let client = match keys.file("ca.crt", "REDIS_CA_FILE") {
        None => redis::Client::open(info),
        Some(file) => {
            let authority =
                std::fs::read(&file).map_err(|source| ConnectError::Unreadable { file, source })?;
            redis::Client::build_with_tls(
                info,
                TlsCertificates {
                    client_tls: None,
                    root_cert: Some(authority),
                },
            )
        }
    };
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_response_timeout(Some(REDIS_PATIENCE))
        .set_connection_timeout(Some(REDIS_PATIENCE));
    let manager = client.and_then(|client| ConnectionManager::new_lazy_with_config(client, config));
    manager.map_err(ConnectError::DictionaryUrl)
}
