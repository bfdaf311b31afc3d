//! What an error of Kafka's client means: which right is missing, which topic is unknown, who did not answer.
//!
//! Pure but for [`Watch`], which keeps what librdkafka says of its connections, since no answer says it.

use std::sync::{Mutex, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::lag::{Unknown, UnknownReason};

/// Remembers the last trouble with a connection.
#[derive(Default)]
pub(super) struct Watch {
    last: Mutex<Option<(UnknownReason, String)>>,
}

impl Watch {
    /// The trouble since the last call of [`Self::forget`]; refused credentials stand before lost connections.
    pub(super) fn last(&self) -> Option<(UnknownReason, String)> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn forget(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl ClientContext for Watch {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}

    fn error(&self, error: KafkaError, text: &str) {
        let reason = match error.rdkafka_error_code() {
            Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL) => {
                UnknownReason::AuthenticationFailed
            }
            // It says no more than the errors before it.
            Some(Code::AllBrokersDown) => return,
            _ => UnknownReason::Unreachable,
        };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if reason == UnknownReason::AuthenticationFailed
            || !matches!(*last, Some((UnknownReason::AuthenticationFailed, _)))
        {
            *last = Some((reason, text.to_owned()));
        }
    }
}

impl ConsumerContext for Watch {}

/// No broker answered: by what the client says of its connections.
pub(super) fn unreachable(servers: &str, last: Option<(UnknownReason, String)>) -> Unknown {
    match last {
        Some((UnknownReason::AuthenticationFailed, text)) => Unknown::new(
            UnknownReason::AuthenticationFailed,
            format!(
                "Kafka at {servers} refuses the login or TLS: {text}; correct the Secret of spec.source.authSecret"
            ),
        ),
        Some((reason, text)) => Unknown::new(
            reason,
            format!(
                "Kafka at {servers} cannot be reached: {text}; check spec.source.bootstrapServers and the network"
            ),
        ),
        None => Unknown::new(
            UnknownReason::Unreachable,
            format!(
                "Kafka at {servers} does not answer in time; check spec.source.bootstrapServers and the network"
            ),
        ),
    }
}

/// A setting that librdkafka refuses. Its value may be a secret, and stands in the cause too.
pub(super) fn refused_setting(error: KafkaError) -> Unknown {
    let text = match error {
        KafkaError::ClientConfig(_, _, name, _) => {
            format!("its setting {name} has a value that it does not take")
        }
        other => other.to_string(),
    };
    let message =
        format!("Kafka's client cannot be set up: {text}; correct the Secret of spec.source.authSecret");
    Unknown::new(UnknownReason::AuthenticationFailed, message)
}

/// An error about a topic.
pub(super) fn of_topic(topic: &str, code: Code) -> Unknown {
    match code {
        Code::TopicAuthorizationFailed => Unknown::new(
            UnknownReason::Forbidden,
            format!(
                "Kafka refuses to describe topic {topic}: grant the operator's user Describe on the topic"
            ),
        ),
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::InvalidTopic => Unknown::new(
            UnknownReason::UnknownTopic,
            format!("topic {topic} does not exist: create it, or correct spec.source.topic"),
        ),
        code => Unknown::new(
            UnknownReason::Partial,
            format!("the offsets of topic {topic} are not all known: {code}"),
        ),
    }
}

/// An error about a group.
pub(super) fn of_group(group: &str, right: &str, code: Code) -> Unknown {
    match code {
        Code::GroupAuthorizationFailed => Unknown::new(
            UnknownReason::Forbidden,
            format!("Kafka refuses access to group {group}: grant the operator's user {right} on the group"),
        ),
        Code::UnknownMemberId | Code::NonEmptyGroup | Code::RebalanceInProgress => Unknown::new(
            UnknownReason::Partial,
            format!("group {group} has members, so its offsets are its own to commit"),
        ),
        code => Unknown::new(
            UnknownReason::Partial,
            format!("the offsets of group {group} are not all known: {code}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_credentials_outlive_the_lost_connections_that_follow() {
        let watch = Watch::default();
        let refused = KafkaError::Global(Code::Authentication);
        let lost = KafkaError::Global(Code::BrokerTransportFailure);
        watch.error(lost.clone(), "connection refused");
        assert_eq!(
            unreachable("kafka:9092", watch.last()).reason,
            UnknownReason::Unreachable
        );
        watch.error(refused, "SASL authentication error");
        watch.error(lost, "connection refused");
        watch.error(KafkaError::Global(Code::AllBrokersDown), "1/1 brokers are down");
        let unknown = unreachable("kafka:9092", watch.last());
        assert_eq!(unknown.reason, UnknownReason::AuthenticationFailed);
        for part in [
            "kafka:9092",
            "SASL authentication error",
            "spec.source.authSecret",
        ] {
            assert!(unknown.message.contains(part), "{unknown}");
        }
        watch.forget();
        assert_eq!(watch.last(), None);
    }

    #[test]
    fn the_value_of_a_refused_setting_is_not_repeated() {
        let (cause, value) = ("Invalid value \"a secret\"".to_owned(), "a secret".to_owned());
        let invalid = rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_INVALID;
        let error = KafkaError::ClientConfig(invalid, cause, "security.protocol".to_owned(), value);
        let unknown = refused_setting(error);
        assert!(unknown.message.contains("security.protocol"), "{unknown}");
        assert!(!unknown.message.contains("a secret"), "{unknown}");
    }
}
