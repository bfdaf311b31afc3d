//! SASL and TLS settings of a Kafka client, derived from the Secret `spec.source.authSecretName`.
//!
//! The worker mounts the Secret as files, the operator reads it from the API server; both pass its keys in.
//! Settings use librdkafka's names. This module never creates a client and never reports a value, only key names.

use crate::secret::permits_plaintext;

/// Keys of the Secret `spec.source.authSecretName`; all are optional.
#[derive(Clone, Default)]
pub struct KafkaKeys {
    /// `username` (SASL).
    pub username: Option<String>,
    /// `password` (SASL).
    pub password: Option<String>,
    /// `mechanism` (SASL); default `PLAIN`.
    pub mechanism: Option<String>,
    /// `security.protocol`; default by the other keys: `SASL_SSL`, `SSL` or `PLAINTEXT`.
    pub protocol: Option<String>,
    /// `allow.plaintext`: `true` permits `PLAIN`, which sends the password itself, without TLS.
    pub allow_plaintext: Option<String>,
    /// `ca.crt`: trusted CA certificates, in the form of [`PemSource`].
    pub ca_certificate: Option<String>,
    /// `tls.crt`: client certificate, in the form of [`PemSource`].
    pub client_certificate: Option<String>,
    /// `tls.key`: private key of the client certificate, in the form of [`PemSource`].
    pub client_key: Option<String>,
}

/// Form of the values of `ca.crt`, `tls.crt` and `tls.key`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PemSource {
    /// Path of a PEM file.
    File,
    /// PEM text.
    Inline,
}

impl PemSource {
    /// Names of the settings for the CA certificates, the client certificate and the client key.
    const fn setting_names(self) -> [&'static str; 3] {
        match self {
            Self::File => ["ssl.ca.location", "ssl.certificate.location", "ssl.key.location"],
            Self::Inline => ["ssl.ca.pem", "ssl.certificate.pem", "ssl.key.pem"],
        }
    }
}

/// Error for an invalid or missing key. It never contains the value, which may be a misplaced secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidKey {
    /// Name of the key in the Secret.
    pub key: &'static str,
    /// Cause and remedy.
    pub cause: &'static str,
}

const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
const PROTOCOLS: [&str; 4] = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];

/// Derives the client settings, as pairs of name and value.
///
/// # Errors
/// [`InvalidKey`] for an unsupported value, or for a key that others require and that is missing.
pub fn client_settings(keys: KafkaKeys, pem: PemSource) -> Result<Vec<(&'static str, String)>, InvalidKey> {
    let has_tls = keys.ca_certificate.is_some() || keys.client_certificate.is_some();
    let protocol = keys.protocol.unwrap_or_else(|| {
        let default = match (&keys.username, has_tls) {
            (Some(_), _) => "SASL_SSL",
            (None, true) => "SSL",
            (None, false) => "PLAINTEXT",
        };
        default.to_owned()
    });
    ensure(
        PROTOCOLS.contains(&protocol.as_str()),
        "security.protocol",
        "must be PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL",
    )?;
    let mut settings = Vec::with_capacity(7);
    if protocol.starts_with("SASL") {
        let mechanism = keys.mechanism.unwrap_or_else(|| "PLAIN".to_owned());
        ensure(
            MECHANISMS.contains(&mechanism.as_str()),
            "mechanism",
            "must be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
        )?;
        ensure(
            protocol == "SASL_SSL"
                || mechanism != "PLAIN"
                || permits_plaintext(keys.allow_plaintext.as_deref()),
            "password",
            "would be sent in clear text by PLAIN: set security.protocol to SASL_SSL, mechanism to SCRAM-SHA-512, or \
             allow.plaintext to true",
        )?;
        settings.push(("sasl.mechanism", mechanism));
        settings.push(("sasl.username", require(keys.username, "username")?));
        settings.push(("sasl.password", require(keys.password, "password")?));
    }
    if protocol.ends_with("SSL") {
        let is_paired = keys.client_certificate.is_some() == keys.client_key.is_some();
        ensure(is_paired, "tls.key", "must be set together with tls.crt")?;
        let values = [keys.ca_certificate, keys.client_certificate, keys.client_key];
        let pairs = pem.setting_names().into_iter().zip(values);
        settings.extend(pairs.filter_map(|(name, value)| Some((name, value?))));
        // The certificate must be valid for the name of the broker. This is the default, which must not change.
        settings.push(("ssl.endpoint.identification.algorithm", "https".to_owned()));
    }
    settings.push(("security.protocol", protocol));
    Ok(settings)
}

fn ensure(is_valid: bool, key: &'static str, cause: &'static str) -> Result<(), InvalidKey> {
    if is_valid {
        Ok(())
    } else {
        Err(InvalidKey { key, cause })
    }
}

fn require(value: Option<String>, key: &'static str) -> Result<String, InvalidKey> {
    value.ok_or(InvalidKey {
        key,
        cause: "is missing but required for SASL: add it",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTNAME: &str = "ssl.endpoint.identification.algorithm=https";

    /// Builds keys from texts of the form `name=value`.
    fn keys(texts: &[&str]) -> KafkaKeys {
        let mut keys = KafkaKeys::default();
        for text in texts {
            let (name, value) = text.split_once('=').expect("name=value");
            let text = Some(value.to_owned());
            match name {
                "username" => keys.username = text,
                "password" => keys.password = text,
                "mechanism" => keys.mechanism = text,
                "security.protocol" => keys.protocol = text,
                "allow.plaintext" => keys.allow_plaintext = text,
                "ca.crt" => keys.ca_certificate = text,
                "tls.crt" => keys.client_certificate = text,
                "tls.key" => keys.client_key = text,
                other => unreachable!("{other}"),
            }
        }
        keys
    }

    #[test]
    fn each_combination_of_keys_maps_to_its_settings() {
        let login = ["username=u", "password=p"];
        let with_login = |more: &[&'static str]| [login.as_slice(), more].concat();
        let plain = ["sasl.mechanism=PLAIN", "sasl.username=u", "sasl.password=p"];
        let with_plain = |more: &[&'static str]| [plain.as_slice(), more].concat();
        for (given, expected) in [
            (vec![], vec!["security.protocol=PLAINTEXT"]),
            (
                vec!["ca.crt=/ca"],
                vec!["ssl.ca.location=/ca", HOSTNAME, "security.protocol=SSL"],
            ),
            (
                vec!["tls.crt=/c", "tls.key=/k"],
                vec![
                    "ssl.certificate.location=/c",
                    "ssl.key.location=/k",
                    HOSTNAME,
                    "security.protocol=SSL",
                ],
            ),
            (
                vec!["security.protocol=SSL"],
                vec![HOSTNAME, "security.protocol=SSL"],
            ),
            (
                with_login(&[]),
                with_plain(&[HOSTNAME, "security.protocol=SASL_SSL"]),
            ),
            (
                with_login(&["ca.crt=/ca"]),
                with_plain(&["ssl.ca.location=/ca", HOSTNAME, "security.protocol=SASL_SSL"]),
            ),
            (
                with_login(&["security.protocol=SASL_PLAINTEXT", "allow.plaintext=true"]),
                with_plain(&["security.protocol=SASL_PLAINTEXT"]),
            ),
            // An explicit protocol takes precedence over the other keys.
            (
                with_login(&["security.protocol=PLAINTEXT", "ca.crt=/ca"]),
                vec!["security.protocol=PLAINTEXT"],
            ),
        ] {
            let settings = client_settings(keys(&given), PemSource::File).expect("valid keys");
            let actual: Vec<String> = settings
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            assert_eq!(actual, expected, "{given:?}");
        }
        for mechanism in MECHANISMS {
            let mut keys = keys(&login);
            keys.mechanism = Some(mechanism.to_owned());
            let settings = client_settings(keys, PemSource::File).expect(mechanism);
            assert_eq!(settings[0], ("sasl.mechanism", mechanism.to_owned()));
        }
    }

    #[test]
    fn without_tls_only_scram_may_have_a_password_unless_the_secret_permits_it() {
        let settings = |more: &[&'static str]| {
            let given = ["username=u", "password=p", "security.protocol=SASL_PLAINTEXT"];
            client_settings(keys(&[&given, more].concat()), PemSource::File)
        };
        for refused in [
            &[][..],
            &["mechanism=PLAIN"],
            &["allow.plaintext="],
            &["allow.plaintext=false"],
            &["ca.crt=/ca"],
        ] {
            assert_eq!(
                settings(refused).expect_err("refused").key,
                "password",
                "{refused:?}"
            );
        }
        for accepted in [
            "mechanism=SCRAM-SHA-256",
            "mechanism=SCRAM-SHA-512",
            "allow.plaintext=true",
        ] {
            assert!(settings(&[accepted]).is_ok(), "{accepted}");
        }
    }

    #[test]
    fn the_error_names_the_invalid_or_missing_key() {
        for (given, key) in [
            (vec!["username=u"], "password"),
            (vec!["security.protocol=SASL_SSL", "password=p"], "username"),
            (vec!["security.protocol=TLS"], "security.protocol"),
            (vec!["username=u", "password=p", "mechanism=GSSAPI"], "mechanism"),
            (vec!["tls.crt=/c"], "tls.key"),
            (vec!["ca.crt=/ca", "tls.key=/k"], "tls.key"),
        ] {
            let error = client_settings(keys(&given), PemSource::File).expect_err("invalid keys");
            assert_eq!(error.key, key, "{given:?}");
        }
    }

    #[test]
    fn inline_pem_uses_the_pem_settings() {
        let keys = keys(&["ca.crt=A", "tls.crt=C", "tls.key=K"]);
        let settings = client_settings(keys, PemSource::Inline).expect("valid keys");
        let expected = [
            ("ssl.ca.pem", "A"),
            ("ssl.certificate.pem", "C"),
            ("ssl.key.pem", "K"),
        ];
        let expected = expected.map(|(name, value)| (name, value.to_owned()));
        assert_eq!(settings[..3], expected);
    }
}
