//! Simulated source system: reference data and order messages, valid and malformed, from a seed.
//!
//! Pure, except [`reference_data`] and [`send`]: the same settings give the same bytes, on every machine and in every run.
//! Each malformed message carries its expected dead-letter code, so that a test needs no knowledge of its form.
//! Messages conform to the contract of the source topic: JSON without a key, timestamps without a zone.

mod bad;
pub mod catalogue;
mod clock;
pub mod edit;
mod generator;
mod history;
mod json;
pub mod manifest;
mod message;
mod names;
mod order;
pub mod reference_data;
pub mod send;

pub use generator::{Generator, Settings};
pub use history::History;
pub use message::{Expected, Message};

#[cfg(test)]
mod tests;
