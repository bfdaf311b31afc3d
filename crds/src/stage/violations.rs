//! Violations of rules, and checks of values that several fields share.

use std::{fmt, ops::RangeInclusive};

use super::addresses::is_topic_name;
use super::names::is_object_name;

/// Maximum length of a topic name in Kafka.
pub(super) const MAX_TOPIC_NAME_LENGTH: usize = 249;

/// Violation of a rule by a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field, such as `spec.output.topic`.
    pub field: String,
    /// Cause and remedy.
    pub message: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// Violations found so far.
#[derive(Default)]
pub(super) struct Violations(pub(super) Vec<Violation>);

impl Violations {
    /// Adds a violation unless `condition` is true.
    pub(super) fn require(&mut self, condition: bool, field: &str, message: impl Into<String>) {
        if !condition {
            self.0.push(Violation {
                field: field.to_owned(),
                message: message.into(),
            });
        }
    }

    pub(super) fn require_in_range<T: PartialOrd + fmt::Display>(
        &mut self,
        field: &str,
        value: &T,
        bounds: &RangeInclusive<T>,
    ) {
        let message = format!(
            "{value} is out of range: must be between {} and {}",
            bounds.start(),
            bounds.end()
        );
        self.require(bounds.contains(value), field, message);
    }

    pub(super) fn require_length(&mut self, field: &str, text: &str, max_length: usize) {
        let message = format!(
            "has {} characters: must have between 1 and {max_length}",
            text.chars().count()
        );
        self.require((1..=max_length).contains(&text.chars().count()), field, message);
    }

    pub(super) fn require_secret_name(&mut self, field: &str, name: Option<&String>) {
        let message = "is not the name of a Secret: use lower-case letters, digits, `-` and `.`, at most 253 characters";
        self.require(name.is_none_or(|name| is_object_name(name)), field, message);
    }

    pub(super) fn require_topic_name(&mut self, field: &str, topic: &str) {
        self.require_length(field, topic, MAX_TOPIC_NAME_LENGTH);
        self.require(
            topic.is_empty() || is_topic_name(topic),
            field,
            format!(
                "`{topic}` is not a valid topic name: use letters, digits, `.`, `_` and `-` only, and more than dots"
            ),
        );
    }
}
