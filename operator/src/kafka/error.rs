//! Translates errors of Kafka into a [`LagError`] with cause and remedy. Pure.
//!
//! A message has no text of a broker, and is the same for a refused connection and for one without an answer: the author
//! of a stage chooses its servers, and must not learn from its status what else listens in the network of the operator.

use kafka::Cause;
use kafka::protocol::error::ResponseError as Code;

use crate::lag::offsets::{LagError, LagErrorReason};

/// Error for a missing response of all brokers.
pub(super) fn unreachable_error(bootstrap_servers: &str, cause: &Cause) -> LagError {
    let rejected = |what: &str| {
        let message =
            format!("Kafka at {bootstrap_servers} {what}; correct the Secret of spec.source.authSecretName");
        LagError::new(LagErrorReason::AuthenticationFailed, message)
    };
    match cause {
        Cause::Authentication(_) => rejected("rejected the credentials"),
        Cause::Tls(text) => rejected(&format!("and the operator cannot agree on TLS: {text}")),
        Cause::TooManyConnections => LagError::new(
            LagErrorReason::Unreachable,
            format!("Kafka at {bootstrap_servers} is not polled: {cause}"),
        ),
        _ => LagError::new(
            LagErrorReason::Unreachable,
            format!(
                "Kafka at {bootstrap_servers} is unreachable; check spec.source.bootstrapServers and the network"
            ),
        ),
    }
}

pub(super) fn topic_error(topic: &str, code: Code) -> LagError {
    match code {
        Code::TopicAuthorizationFailed => LagError::new(
            LagErrorReason::AuthorizationFailed,
            format!(
                "Kafka denies access to topic {topic}: grant the operator's user the ACL operation Describe on the topic"
            ),
        ),
        Code::UnknownTopicOrPartition | Code::InvalidTopicException => LagError::new(
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
    use std::io::{Error, ErrorKind};

    use super::*;

    #[test]
    fn a_rejected_login_is_told_from_an_unreachable_broker_without_the_text_of_the_broker() {
        let rejected = Cause::Authentication("a text of the broker".to_owned());
        let error = unreachable_error("kafka:9092", &rejected);
        assert_eq!(error.reason, LagErrorReason::AuthenticationFailed);
        assert!(
            error.message.contains("kafka:9092") && error.message.contains("spec.source.authSecretName"),
            "{error}"
        );
        assert!(!error.message.contains("a text"), "{error}");
    }

    #[test]
    fn a_closed_port_a_silent_one_and_another_protocol_have_one_message() {
        let refused = Cause::Connection(Error::from(ErrorKind::ConnectionRefused));
        let causes = [refused, Cause::TimedOut, Cause::Malformed("HTTP".to_owned())];
        for cause in causes {
            let error = unreachable_error("127.0.0.1:22", &cause);
            assert_eq!(error.reason, LagErrorReason::Unreachable);
            assert_eq!(
                error.message,
                "Kafka at 127.0.0.1:22 is unreachable; check spec.source.bootstrapServers and the network"
            );
        }
    }
}
