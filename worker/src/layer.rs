//! The three layers of the warehouse, behind one interface.
//!
//! The batch pipeline ([`crate::pipeline`]) is the same for all layers and uses [`interface::Layer`] only. A layer never
//! commits, never publishes, and never reads or writes a position.

pub mod cdm;
pub mod dds;
pub mod interface;
mod order_fields;
pub mod stg;
pub mod stored;

#[cfg(test)]
pub(crate) mod contract_tests;
