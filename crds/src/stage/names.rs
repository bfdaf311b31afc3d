//! Names of Kubernetes objects that a stage refers to.
//!
//! The operator puts them into the paths of requests to the API server, and the worker into paths of files. A name that
//! is not checked could address another resource or another namespace.

/// Pattern of an object name: a DNS-1123 subdomain.
pub(super) const OBJECT_NAME_PATTERN: &str =
    r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";
/// Pattern of a name that is also a DNS label: a DNS-1123 label.
pub(super) const LABEL_NAME_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";
/// Maximum length of an object name.
pub(super) const MAX_OBJECT_NAME_LENGTH: usize = 253;
/// Maximum length of a DNS label, such as the name of a namespace or of a volume.
pub(super) const MAX_LABEL_NAME_LENGTH: usize = 63;

/// Returns true for the name of a Secret, a `ConfigMap`, a `ServiceAccount` or a similar object: a DNS-1123 subdomain of
/// at most 253 characters.
#[must_use]
pub fn is_object_name(name: &str) -> bool {
    name.len() <= MAX_OBJECT_NAME_LENGTH && name.split('.').all(is_dns_label)
}

/// Returns true for the name of a namespace or a volume: a DNS-1123 label of at most 63 characters.
#[must_use]
pub fn is_label_name(name: &str) -> bool {
    name.len() <= MAX_LABEL_NAME_LENGTH && is_dns_label(name)
}

/// Returns true for lower-case letters, digits and `-`, with a letter or digit at both ends.
fn is_dns_label(text: &str) -> bool {
    let is_alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.bytes().all(|byte| is_alphanumeric(byte) || byte == b'-')
        && text.bytes().next().is_some_and(is_alphanumeric)
        && text.bytes().next_back().is_some_and(is_alphanumeric)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn names_that_would_change_a_request_are_rejected() {
        for name in [
            "",
            ".",
            "..",
            "../../team-b/secrets/x",
            "a/b",
            "?watch=1&timeoutSeconds=86400",
            "a?watch=1",
            "a#b",
            "a%2Fb",
            "a b",
            "a\nb",
            "A",
            "-a",
            "a-",
            "a..b",
            ".a",
            "a.",
            "секрет",
        ] {
            assert!(!is_object_name(name), "{name:?}");
            assert!(!is_label_name(name), "{name:?}");
        }
        for name in ["a", "0", "a-b", "orders-postgres"] {
            assert!(is_object_name(name) && is_label_name(name), "{name}");
        }
        assert!(is_object_name("a.b-c.d") && !is_label_name("a.b"));
        assert!(is_object_name(&"a".repeat(253)) && !is_object_name(&"a".repeat(254)));
        assert!(is_label_name(&"a".repeat(63)) && !is_label_name(&"a".repeat(64)));
    }

    proptest! {
        #[test]
        fn the_patterns_accept_exactly_the_same_names(name in "[a-zA0-9./?-]{0,8}") {
            for (pattern, is_valid) in [
                (OBJECT_NAME_PATTERN, is_object_name(&name)),
                (LABEL_NAME_PATTERN, is_label_name(&name)),
            ] {
                let schema = json!({"type": "string", "pattern": pattern});
                prop_assert_eq!(jsonschema::is_valid(&schema, &json!(&name)), is_valid, "{} {}", pattern, &name);
            }
        }
    }
}
