//! Which settings of a Kafka client follow from the keys of `spec.source.authSecret`.
//!
//! The worker has the keys as files and the operator as text; both read them at their edges and pass them in.
//! Settings are names and values as librdkafka takes them; nothing here makes a client.

/// The keys of `spec.source.authSecret`; all are optional.
#[derive(Clone, Default)]
pub struct KafkaKeys {
    /// `username`.
    pub username: Option<String>,
    /// `password`.
    pub password: Option<String>,
    /// `mechanism`.
    pub mechanism: Option<String>,
    /// `security.protocol`.
    pub protocol: Option<String>,
    /// `ca.crt`: a path or PEM, as [`Pem`] says.
    pub authority: Option<String>,
    /// `tls.crt`: a path or PEM, as [`Pem`] says.
    pub certificate: Option<String>,
    /// `tls.key`: a path or PEM, as [`Pem`] says.
    pub certificate_key: Option<String>,
}

/// What stands in the three PEM keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pem {
    /// The path of a file.
    File,
    /// The PEM itself.
    Text,
}

impl Pem {
    /// Settings of the authority, the certificate and its key.
    const fn settings(self) -> [&'static str; 3] {
        match self {
            Self::File => ["ssl.ca.location", "ssl.certificate.location", "ssl.key.location"],
            Self::Text => ["ssl.ca.pem", "ssl.certificate.pem", "ssl.key.pem"],
        }
    }
}

/// What is wrong with a key, without its value: that may be a secret in the wrong place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadKey {
    /// The key of the secret.
    pub key: &'static str,
    /// What is wrong with it, and what it should be.
    pub cause: &'static str,
}

const MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];
const PROTOCOLS: [&str; 4] = ["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"];

/// Settings of the client, by name.
///
/// # Errors
/// When a key has a value that nothing can be done with, or lacks its partner.
pub fn settings(keys: KafkaKeys, pem: Pem) -> Result<Vec<(&'static str, String)>, BadKey> {
    let tls = keys.authority.is_some() || keys.certificate.is_some();
    let protocol = keys.protocol.unwrap_or_else(|| {
        let by_what_is_there = match (&keys.username, tls) {
            (Some(_), _) => "SASL_SSL",
            (None, true) => "SSL",
            (None, false) => "PLAINTEXT",
        };
        by_what_is_there.to_owned()
    });
    check(
        PROTOCOLS.contains(&protocol.as_str()),
        "security.protocol",
        "it should be PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL",
    )?;
    let mut settings = Vec::with_capacity(7);
    if protocol.starts_with("SASL") {
        let mechanism = keys.mechanism.unwrap_or_else(|| "PLAIN".to_owned());
        let known = MECHANISMS.contains(&mechanism.as_str());
        check(
            known,
            "mechanism",
            "it should be PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512",
        )?;
        settings.push(("sasl.mechanism", mechanism));
        settings.push(("sasl.username", needed(keys.username, "username")?));
        settings.push(("sasl.password", needed(keys.password, "password")?));
    }
    if protocol.ends_with("SSL") {
        let paired = keys.certificate.is_some() == keys.certificate_key.is_some();
        check(paired, "tls.key", "tls.crt and tls.key need each other")?;
        let values = [keys.authority, keys.certificate, keys.certificate_key];
        let given = pem.settings().into_iter().zip(values);
        settings.extend(given.filter_map(|(name, value)| Some((name, value?))));
    }
    settings.push(("security.protocol", protocol));
    Ok(settings)
}

fn check(fine: bool, key: &'static str, cause: &'static str) -> Result<(), BadKey> {
    if fine { Ok(()) } else { Err(BadKey { key, cause }) }
}

fn needed(value: Option<String>, key: &'static str) -> Result<String, BadKey> {
    value.ok_or(BadKey {
        key,
        cause: "it is needed for SASL, and is not there",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys as `name=value`.
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
                "ca.crt" => keys.authority = text,
                "tls.crt" => keys.certificate = text,
                "tls.key" => keys.certificate_key = text,
                other => unreachable!("{other}"),
            }
        }
        keys
    }

    #[test]
    fn each_set_of_keys_has_its_settings() {
        let login = ["username=u", "password=p"];
        let with_login = |more: &[&'static str]| [login.as_slice(), more].concat();
        let plain = ["sasl.mechanism=PLAIN", "sasl.username=u", "sasl.password=p"];
        let with_plain = |more: &[&'static str]| [plain.as_slice(), more].concat();
        for (given, expected) in [
            (vec![], vec!["security.protocol=PLAINTEXT"]),
            (
                vec!["ca.crt=/ca"],
                vec!["ssl.ca.location=/ca", "security.protocol=SSL"],
            ),
            (
                vec!["tls.crt=/c", "tls.key=/k"],
                vec![
                    "ssl.certificate.location=/c",
                    "ssl.key.location=/k",
                    "security.protocol=SSL",
                ],
            ),
            (vec!["security.protocol=SSL"], vec!["security.protocol=SSL"]),
            (with_login(&[]), with_plain(&["security.protocol=SASL_SSL"])),
            (
                with_login(&["ca.crt=/ca"]),
                with_plain(&["ssl.ca.location=/ca", "security.protocol=SASL_SSL"]),
            ),
            (
                with_login(&["security.protocol=SASL_PLAINTEXT"]),
                with_plain(&["security.protocol=SASL_PLAINTEXT"]),
            ),
            // The protocol is what was asked for, whatever else is there.
            (
                with_login(&["security.protocol=PLAINTEXT", "ca.crt=/ca"]),
                vec!["security.protocol=PLAINTEXT"],
            ),
        ] {
            let settings = settings(keys(&given), Pem::File).expect("good keys");
            let shown: Vec<String> = settings
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            assert_eq!(shown, expected, "{given:?}");
        }
        for mechanism in MECHANISMS {
            let mut keys = keys(&login);
            keys.mechanism = Some(mechanism.to_owned());
            let settings = settings(keys, Pem::File).expect(mechanism);
            assert_eq!(settings[0], ("sasl.mechanism", mechanism.to_owned()));
        }
    }

    #[test]
    fn keys_that_cannot_be_used_are_named() {
        for (given, key) in [
            (vec!["username=u"], "password"),
            (vec!["security.protocol=SASL_SSL", "password=p"], "username"),
            (vec!["security.protocol=TLS"], "security.protocol"),
            (vec!["username=u", "password=p", "mechanism=GSSAPI"], "mechanism"),
            (vec!["tls.crt=/c"], "tls.key"),
            (vec!["ca.crt=/ca", "tls.key=/k"], "tls.key"),
        ] {
            let refused = settings(keys(&given), Pem::File).expect_err("bad keys");
            assert_eq!(refused.key, key, "{given:?}");
        }
    }

    #[test]
    fn text_goes_into_the_settings_for_text() {
        let keys = keys(&["ca.crt=A", "tls.crt=C", "tls.key=K"]);
        let names = settings(keys, Pem::Text).expect("good keys").into_iter().take(3);
        let expected = [
            ("ssl.ca.pem", "A"),
            ("ssl.certificate.pem", "C"),
            ("ssl.key.pem", "K"),
        ];
        let expected = expected.map(|(name, value)| (name, value.to_owned()));
        assert_eq!(names.collect::<Vec<_>>(), expected);
    }
}
