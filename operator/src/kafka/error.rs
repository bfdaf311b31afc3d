//! Translates errors of the Kafka client into a [`LagError`] with cause and remedy.
//!
//! Pure, except for [`ConnectionErrors`]: librdkafka reports connection errors only to a callback, never in a response.

use std::sync::{Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::lag::offsets::{LagError, LagErrorReason};

/// Client context that retains the last connection error.
#[derive(Default)]
pub(super) struct ConnectionErrors {
    last: Mutex<Option<(LagErrorReason, String)>>,
}

impl ConnectionErrors {
    /// Last error since [`Self::clear`]. An authentication error takes precedence over a lost connection.
    pub(super) fn last(&self) -> Option<(LagErrorReason, String)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn clear(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl ClientContext for ConnectionErrors {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, text: &str) {
        let reason = match error.rdkafka_error_code() {
            Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL) => {
                LagErrorReason::AuthenticationFailed
            }
            // Adds nothing to the errors of the single brokers.
            Some(Code::AllBrokersDown) => return,
            _ => LagErrorReason::Unreachable,
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if reason == LagErrorReason::AuthenticationFailed
            || !matches!(*last, Some((LagErrorReason::AuthenticationFailed, _)))
        {
            *last = Some((reason, text.to_owned()));
        }
    }
}

impl ConsumerContext for ConnectionErrors {}

/// Error for a missing response; `last` is the last connection error of the client.
pub(super) fn unreachable_error(bootstrap_servers: &str, last: Option<(LagErrorReason, String)>) -> LagError {
    match last {
        Some((LagErrorReason::AuthenticationFailed, text)) => LagError::new(
            LagErrorReason::AuthenticationFailed,
            format!(
                "Kafka at {bootstrap_servers} rejected the credentials or the TLS handshake: {text}; \
                 correct the Secret of spec.source.authSecretName"
            ),
        ),
        Some((reason, text)) => LagError::new(
            reason,
            format!(
                "Kafka at {bootstrap_servers} is unreachable: {text}; \
                 check spec.source.bootstrapServers and the network"
            ),
        ),
        None => LagError::new(
            LagErrorReason::Unreachable,
            format!(
                "Kafka at {bootstrap_servers} did not respond in time; \
                 check spec.source.bootstrapServers and the network"
            ),
        ),
    }
}

/// Error for a setting that librdkafka rejects. Its value may be a secret and also appears in the cause, so the
/// message has neither.
pub(super) fn invalid_setting(error: KafkaError) -> LagError {
    let text = match error {
        KafkaError::ClientConfig(_, _, name, _) => {
            format!("the setting {name} has an invalid value")
        }
        other => other.to_string(),
    };
    let message =
        format!("cannot create the Kafka client: {text}; correct the Secret of spec.source.authSecretName");
    LagError::new(LagErrorReason::AuthenticationFailed, message)
}

pub(super) fn topic_error(topic: &str, code: Code) -> LagError {
    match code {
        Code::TopicAuthorizationFailed => LagError::new(
            LagErrorReason::AuthorizationFailed,
            format!(
                "Kafka denies access to topic {topic}: grant the operator's user the ACL operation Describe on the topic"
            ),
        ),
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic => LagError::new(
            LagErrorReason::UnknownTopic,
            format!("topic {topic} does not exist: create it, or correct spec.source.topic"),
        ),
        code => LagError::new(
            LagErrorReason::PartialOffsets,
            format!("failed to fetch all offsets of topic {topic}: {code}; check the Kafka brokers"),
        ),
    }
}

/// Error for a request on a group; `acl_operation` is the one that the request needs.
pub(super) fn group_error(group: &str, acl_operation: &str, code: Code) -> LagError {
    match code {
        Code::GroupAuthorizationFailed => LagError::new(
            LagErrorReason::AuthorizationFailed,
            format!(
                "Kafka denies access to group {group}: \
                 grant the operator's user the ACL operation {acl_operation} on the group"
            ),
        ),
        Code::UnknownMemberId | Code::NonEmptyGroup | Code::RebalanceInProgress => LagError::new(
            LagErrorReason::PartialOffsets,
            format!(
                "cannot commit start offsets of group {group} while it has members; \
                 stop its other consumers, or change spec.source.consumerGroup"
            ),
        ),
        code => LagError::new(
            LagErrorReason::PartialOffsets,
            format!("failed to fetch all offsets of group {group}: {code}; check the Kafka brokers"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authentication_error_takes_precedence_over_lost_connections() {
        let errors = ConnectionErrors::default();
        let rejected = KafkaError::Global(Code::Authentication);
        let lost = KafkaError::Global(Code::BrokerTransportFailure);
        errors.error(lost.clone(), "connection refused");
        assert_eq!(
            unreachable_error("kafka:9092", errors.last()).reason,
            LagErrorReason::Unreachable
        );
        errors.error(rejected, "SASL authentication error");
        errors.error(lost, "connection refused");
        errors.error(KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        let error = unreachable_error("kafka:9092", errors.last());
        assert_eq!(error.reason, LagErrorReason::AuthenticationFailed);
        for part in [
            "kafka:9092",
            "SASL authentication error",
            "spec.source.authSecretName",
        ] {
            assert!(error.message.contains(part), "{error}");
        }
        errors.clear();
        assert_eq!(errors.last(), None);
    }

    #[test]
    fn the_value_of_an_invalid_setting_is_not_in_the_message() {
        let (cause, value) = ("Invalid value \"a secret\"".to_owned(), "a secret".to_owned());
        let invalid = rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_INVALID;
        let error = KafkaError::ClientConfig(invalid, cause, "security.protocol".to_owned(), value);
        let error = invalid_setting(error);
        assert!(error.message.contains("security.protocol"), "{error}");
        assert!(!error.message.contains("a secret"), "{error}");
    }
}
