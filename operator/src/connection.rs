//! How a stage's Kafka is reached: its servers, and the settings that follow from a Secret.
//!
//! Pure. Stages that reach it in one way share one client.

use std::collections::BTreeMap;
use std::fmt;

use crds::kafka_security::{BadKey, KafkaKeys, Pem, settings};
use k8s_openapi::ByteString;

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
