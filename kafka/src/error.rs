//! Errors of a request to a broker: broker, request, cause and remedy.

use kafka_protocol::error::ResponseError;

/// A request that failed.
#[derive(Debug, thiserror::Error)]
#[error("{broker}: {request}: {cause}")]
pub struct RequestError {
    /// Address of the broker.
    pub broker: String,
    /// Name of the request, or of the step of a connection.
    pub request: String,
    /// Cause and remedy.
    pub cause: Cause,
}

/// Cause of a failed request.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The broker did not answer in time.
    #[error("no answer in time; check the broker and the network")]
    TimedOut,
    /// The connection failed.
    #[error("{0}; check the address, the listener and the security.protocol of the broker")]
    Connection(#[from] std::io::Error),
    /// The certificate of the broker, or one of the PEM files, is not accepted.
    #[error(
        "{0}; check the keys security.protocol, ca.crt, tls.crt and tls.key of spec.source.authSecretName"
    )]
    Tls(String),
    /// The broker rejects the credentials, or does not prove that it has them.
    #[error(
        "authentication failed: {0}; check the keys username, password and mechanism of spec.source.authSecretName"
    )]
    Authentication(String),
    /// The response is larger than the limit.
    #[error("the response has {bytes} bytes, the maximum is {limit}; lower max.message.bytes of the topic")]
    TooLarge {
        /// Size of the response.
        bytes: u32,
        /// Maximum size of a response.
        limit: usize,
    },
    /// The client may not connect to the address.
    #[error("the address is not allowed")]
    AddressNotAllowed,
    /// The client has as many connections as it may.
    #[error("too many open connections; use fewer clusters, or brokers, for the stages of a namespace")]
    TooManyConnections,
    /// The broker and this client have no common version of the request.
    #[error("the broker supports no version from {min} to {max}; use brokers of Kafka 2.3 or newer")]
    UnsupportedVersion {
        /// Lowest version of this client.
        min: i16,
        /// Highest version of this client.
        max: i16,
    },
    /// The answer is not a response of this request.
    #[error("malformed response: {0}; check that the address is a Kafka broker")]
    Malformed(String),
    /// The broker answers with an error code.
    #[error("{0}")]
    Broker(ResponseError),
}

impl Cause {
    /// Cause of an I/O error: that of rustls is an error around its own. Bytes that are not TLS are no question of
    /// certificates.
    #[must_use]
    pub(crate) fn from_io(error: std::io::Error) -> Self {
        use rustls::Error::{AlertReceived, InvalidCertificate};
        match error.downcast::<rustls::Error>() {
            Ok(error @ (InvalidCertificate(_) | AlertReceived(_))) => Self::Tls(error.to_string()),
            Ok(error) => Self::Connection(std::io::Error::other(error)),
            Err(error) => Self::Connection(error),
        }
    }

    /// Cause of bytes that are not a response of the request.
    #[must_use]
    pub(crate) fn malformed(cause: impl std::fmt::Display) -> Self {
        Self::Malformed(cause.to_string().trim_end().to_owned())
    }
}

impl RequestError {
    /// Creates the error of a request.
    #[must_use]
    pub fn new(broker: &str, request: &str, cause: Cause) -> Self {
        Self {
            broker: broker.to_owned(),
            request: request.to_owned(),
            cause,
        }
    }
}
