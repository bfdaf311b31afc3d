//! Kafka connection of a stage: bootstrap servers, and client settings from its Secret.
//!
//! Pure: opens no connection. Stages with equal connections share one client.

use std::collections::BTreeMap;
use std::fmt;

use crds::StreamStage;
use crds::kafka::sasl_tls::{InvalidKey, KafkaKeys, PemSource, client_settings};
use crds::secret::{ALLOW_PLAINTEXT, key_value};
use k8s_openapi::ByteString;

/// Bootstrap servers of a stage, with names that resolve from every namespace.
///
/// A short name is a Service in the namespace of the stage. The operator runs in another namespace, so the name is
/// extended to `NAME.NAMESPACE.svc`.
#[must_use]
pub fn bootstrap_servers(stage: &StreamStage) -> Vec<String> {
    let servers = stage.spec.source.bootstrap_servers.iter();
    servers
        .map(|server| match server.rsplit_once(':') {
            Some((host, port)) if is_short_name(host) => format!("{host}.{}.svc:{port}", stage.namespace()),
            _ => server.clone(),
        })
        .collect()
}

/// Returns true if the host is the name of a Service without its namespace.
pub(crate) fn is_short_name(host: &str) -> bool {
    host != "localhost"
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Everything that a Kafka client needs to connect; equal values can share a client.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KafkaConnection {
    /// `host:port` of each broker.
    pub bootstrap_servers: Vec<String>,
    /// SASL and TLS settings of librdkafka by name, including credentials. Never log them.
    pub client_settings: Vec<(&'static str, String)>,
}

impl fmt::Debug for KafkaConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaConnection")
            .field("bootstrap_servers", &self.bootstrap_servers)
            .finish_non_exhaustive()
    }
}

impl KafkaConnection {
    /// Builds the client settings from the keys of `spec.source.authSecretName`, like the worker.
    ///
    /// # Errors
    /// If a key has an invalid value, or if the key that belongs to it is missing.
    pub fn new(
        bootstrap_servers: &[String],
        data: &BTreeMap<String, ByteString>,
    ) -> Result<Self, InvalidKey> {
        let value = |key: &str| {
            let bytes = data.get(key)?;
            Some(key_value(&String::from_utf8_lossy(&bytes.0)).to_owned())
        };
        let keys = KafkaKeys {
            username: value("username"),
            password: value("password"),
            mechanism: value("mechanism"),
            protocol: value("security.protocol"),
            allow_plaintext: value(ALLOW_PLAINTEXT),
            ca_certificate: value("ca.crt"),
            client_certificate: value("tls.crt"),
            client_key: value("tls.key"),
        };
        Ok(Self {
            bootstrap_servers: bootstrap_servers.to_vec(),
            client_settings: client_settings(keys, PemSource::Inline)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_host_resolves_to_a_service_in_the_namespace_of_the_stage() {
        let stage = serde_saphyr::from_str(
            "{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {name: cdm, namespace: orders}, \
             spec: {layer: cdm, source: {topic: facts, bootstrapServers: ['kafka:9092', 'kafka-1:9092', \
             'localhost:9092', '127.0.0.1:9092', 'kafka.other:9092', 'kafka.example.com:9092', '[::1]:9092']}, \
             warehouse: {host: postgres, database: orders}}}",
        )
        .expect("a stage");
        assert_eq!(
            bootstrap_servers(&stage),
            [
                "kafka.orders.svc:9092",
                "kafka-1.orders.svc:9092",
                "localhost:9092",
                "127.0.0.1:9092",
                "kafka.other:9092",
                "kafka.example.com:9092",
                "[::1]:9092",
            ]
        );
    }

    #[test]
    fn credentials_are_used_and_never_logged() {
        let data = [
            ("username", "orders"),
            ("password", "secret\n"),
            ("ca.crt", "\u{feff}PEM"),
        ];
        let data = data.map(|(key, value)| (key.to_owned(), ByteString(value.into())));
        let connection = KafkaConnection::new(&["kafka:9092".to_owned()], &data.into()).expect("settings");
        for setting in [
            ("sasl.password", "secret"),
            ("ssl.ca.pem", "PEM"),
            ("security.protocol", "SASL_SSL"),
        ] {
            let setting = (setting.0, setting.1.to_owned());
            assert!(connection.client_settings.contains(&setting), "{setting:?}");
        }
        assert_eq!(
            format!("{connection:?}"),
            r#"KafkaConnection { bootstrap_servers: ["kafka:9092"], .. }"#
        );
    }
}
