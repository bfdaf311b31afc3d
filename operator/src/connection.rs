//! How a stage's Kafka is reached: its servers, and the settings that follow from a Secret.
//!
//! Pure. Stages that reach it in one way share one client.

use std::collections::BTreeMap;
use std::fmt;

use crds::StreamStage;
use crds::kafka_security::{BadKey, KafkaKeys, Pem, settings};
use k8s_openapi::ByteString;

/// The brokers of a stage, as they are reached from every namespace.
///
/// The operator is in another namespace than the stage, where a short name means another Service or none.
#[must_use]
pub fn servers(stage: &StreamStage) -> Vec<String> {
    let servers = stage.spec.source.bootstrap_servers.iter();
    servers
        .map(|server| match server.rsplit_once(':') {
            Some((host, port)) if is_short(host) => format!("{host}.{}.svc:{port}", stage.namespace()),
            _ => server.clone(),
        })
        .collect()
}

/// Whether a host is a Service of the stage's own namespace.
fn is_short(host: &str) -> bool {
    host != "localhost"
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Servers and settings of a client.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Connection {
    /// `host:port` of some brokers.
    pub servers: Vec<String>,
    /// Settings of librdkafka, with credentials among them.
    pub security: Vec<(&'static str, String)>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("servers", &self.servers)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Takes the keys of `spec.source.authSecret`, as the worker does.
    ///
    /// # Errors
    /// When a key has a value that nothing can be done with, or lacks its partner.
    pub fn new(servers: &[String], data: &BTreeMap<String, ByteString>) -> Result<Self, BadKey> {
        let value = |key: &str| {
            let bytes = data.get(key)?;
            let text = String::from_utf8_lossy(&bytes.0);
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        };
        let keys = KafkaKeys {
            username: value("username"),
            password: value("password"),
            mechanism: value("mechanism"),
            protocol: value("security.protocol"),
            authority: value("ca.crt"),
            certificate: value("tls.crt"),
            certificate_key: value("tls.key"),
        };
        Ok(Self {
            servers: servers.to_vec(),
            security: settings(keys, Pem::Text)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_host_is_a_service_of_the_stages_own_namespace() {
        let stage = serde_saphyr::from_str(
            "{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {name: cdm, namespace: orders}, \
             spec: {layer: cdm, source: {topic: facts, bootstrapServers: ['kafka:9092', 'kafka-1:9092', \
             'localhost:9092', '127.0.0.1:9092', 'kafka.other:9092', 'kafka.example.com:9092', '[::1]:9092']}, \
             warehouse: {host: postgres, database: orders}}}",
        )
        .expect("a stage");
        assert_eq!(
            servers(&stage),
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
    fn credentials_are_used_and_never_shown() {
        let data = [
            ("username", "orders"),
            ("password", "secret\n"),
            ("ca.crt", "PEM"),
        ];
        let data = data.map(|(key, value)| (key.to_owned(), ByteString(value.into())));
        let connection = Connection::new(&["kafka:9092".to_owned()], &data.into()).expect("settings");
        for setting in [
            ("sasl.password", "secret"),
            ("ssl.ca.pem", "PEM"),
            ("security.protocol", "SASL_SSL"),
        ] {
            let setting = (setting.0, setting.1.to_owned());
            assert!(connection.security.contains(&setting), "{setting:?}");
        }
        assert_eq!(
            format!("{connection:?}"),
            r#"Connection { servers: ["kafka:9092"], .. }"#
        );
    }
}
