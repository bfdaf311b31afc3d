//! Annotations by which the owner of a Secret or a `ServiceAccount` lets stages use it.
//!
//! Whoever may write a stage may not be allowed to read the Secrets of the namespace. The operator can, so it uses and
//! mounts only those whose owner has allowed it.

use std::collections::BTreeMap;

use crate::hosts::HostPattern;

/// Annotation of a Secret or a `ServiceAccount` that stages of its namespace may use, with the value `true`.
pub const ALLOW_STAGES_ANNOTATION: &str = "streamstage.dev/allow-stages";
/// Annotation of a Secret with the only hosts that it may be sent to, separated by commas. Default: any.
pub const ALLOW_HOSTS_ANNOTATION: &str = "streamstage.dev/allow-hosts";
/// Annotation of a Secret that may be sent without TLS, with the value `true`.
pub const ALLOW_CLEAR_TEXT_ANNOTATION: &str = "streamstage.dev/allow-clear-text";

/// What the owner of an object allows stages to do with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// True if stages may use the object.
    pub allows_stages: bool,
    /// Hosts that a Secret may be sent to; `None` for any. A malformed pattern allows no host.
    pub hosts: Option<Vec<HostPattern>>,
    /// True if a Secret may be sent without TLS.
    pub allows_clear_text: bool,
}

impl Grant {
    /// Reads the annotations of an object.
    #[must_use]
    pub fn from_annotations(annotations: &BTreeMap<String, String>) -> Self {
        let is_true = |annotation: &str| {
            annotations
                .get(annotation)
                .is_some_and(|value| value.trim() == "true")
        };
        let hosts = annotations
            .get(ALLOW_HOSTS_ANNOTATION)
            .map(|hosts| hosts.split(',').filter_map(parse_host).collect());
        Self {
            allows_stages: is_true(ALLOW_STAGES_ANNOTATION),
            hosts,
            allows_clear_text: is_true(ALLOW_CLEAR_TEXT_ANNOTATION),
        }
    }
}

/// Parses a pattern that names hosts.
fn parse_host(text: &str) -> Option<HostPattern> {
    let pattern: HostPattern = text.parse().ok()?;
    (!pattern.is_any()).then_some(pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(annotations: &[(&str, &str)]) -> Grant {
        let annotations = annotations
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Grant::from_annotations(&annotations.collect())
    }

    #[test]
    fn nothing_is_allowed_without_an_annotation() {
        assert_eq!(grant(&[]), Grant::default());
        for value in ["", "false", "yes", "TRUE"] {
            assert!(
                !grant(&[(ALLOW_STAGES_ANNOTATION, value)]).allows_stages,
                "{value}"
            );
        }
        assert!(grant(&[(ALLOW_STAGES_ANNOTATION, "true")]).allows_stages);
    }

    #[test]
    fn a_malformed_host_allows_no_host() {
        let hosts = |text| grant(&[(ALLOW_HOSTS_ANNOTATION, text)]).hosts.expect("hosts");
        assert_eq!(hosts("a.example.com, *.b.example.com:9093").len(), 2);
        assert_eq!(hosts("*"), []);
        assert_eq!(hosts(""), []);
    }
}
