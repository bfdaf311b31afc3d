//! Security of a connection, from the client settings that the worker and the operator derive from a Secret.

use std::path::PathBuf;

/// TLS and SASL of a connection. It has no `Debug`, because it contains a password.
#[derive(Clone, Default)]
pub struct Security {
    /// `None` for a connection in clear text.
    pub tls: Option<Tls>,
    /// `None` for a connection without login.
    pub sasl: Option<Sasl>,
}

/// Certificates of a TLS connection. The name of the broker is always verified.
#[derive(Clone, Default)]
pub struct Tls {
    /// Trusted authorities; `None` trusts those of the system.
    pub ca_certificates: Option<Pem>,
    /// Certificate of the client and its key, if the broker demands one.
    pub client: Option<(Pem, Pem)>,
}

/// Login of a connection.
#[derive(Clone)]
pub struct Sasl {
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub mechanism: String,
    /// Name of the user.
    pub username: String,
    /// Password of the user.
    pub password: String,
}

/// A PEM document.
#[derive(Clone)]
pub enum Pem {
    /// Path of a file, which is read for every connection, so that a renewed certificate is used.
    File(PathBuf),
    /// Text of the document.
    Text(String),
}

impl Security {
    /// Reads the settings with librdkafka's names: `security.protocol`, `sasl.mechanism`, `sasl.username`,
    /// `sasl.password`, and `ssl.ca`, `ssl.certificate` and `ssl.key`, each with the suffix `.location` or `.pem`.
    #[must_use]
    pub fn from_settings<'s>(setting: impl Fn(&str) -> Option<&'s str>) -> Self {
        let protocol = setting("security.protocol").unwrap_or("PLAINTEXT");
        let text = |name: &str| setting(name).unwrap_or_default().to_owned();
        let pem = |name: &str| {
            let file = setting(&format!("{name}.location")).map(|path| Pem::File(path.into()));
            file.or_else(|| setting(&format!("{name}.pem")).map(|text| Pem::Text(text.to_owned())))
        };
        Self {
            tls: protocol.ends_with("SSL").then(|| Tls {
                ca_certificates: pem("ssl.ca"),
                client: pem("ssl.certificate").zip(pem("ssl.key")),
            }),
            sasl: protocol.starts_with("SASL").then(|| Sasl {
                mechanism: text("sasl.mechanism"),
                username: text("sasl.username"),
                password: text("sasl.password"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn security(settings: &[(&str, &'static str)]) -> Security {
        Security::from_settings(|name| {
            settings
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| *value)
        })
    }

    #[test]
    fn the_protocol_selects_tls_and_the_login() {
        for (protocol, tls, sasl) in [
            ("PLAINTEXT", false, false),
            ("SSL", true, false),
            ("SASL_PLAINTEXT", false, true),
            ("SASL_SSL", true, true),
        ] {
            let security = security(&[("security.protocol", protocol), ("sasl.username", "u")]);
            assert_eq!(
                (security.tls.is_some(), security.sasl.is_some()),
                (tls, sasl),
                "{protocol}"
            );
        }
        assert!(security(&[]).tls.is_none());
    }

    #[test]
    fn certificates_are_files_or_texts() {
        let settings = [
            ("security.protocol", "SSL"),
            ("ssl.ca.location", "/ca"),
            ("ssl.certificate.pem", "C"),
        ];
        let tls = security(&settings).tls.expect("TLS");
        assert!(matches!(tls.ca_certificates, Some(Pem::File(path)) if path == *"/ca"));
        assert!(tls.client.is_none(), "a certificate without a key");
        let settings = [
            ("security.protocol", "SSL"),
            ("ssl.certificate.pem", "C"),
            ("ssl.key.pem", "K"),
        ];
        let client = security(&settings).tls.expect("TLS").client;
        assert!(
            matches!(client, Some((Pem::Text(certificate), Pem::Text(key))) if certificate == "C" && key == "K")
        );
    }
}
