//! Kafka client settings that the operator and the worker share.
//!
//! To add a SASL mechanism, extend `MECHANISMS` in [`sasl_tls`] and emit its librdkafka settings in
//! [`sasl_tls::client_settings`]. Then list it in the description of `spec.source.authSecretName`.
//! The worker and the operator follow without a change, unless the mechanism needs a new key of the Secret.

pub mod sasl_tls;
