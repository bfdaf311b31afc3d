//! The worker: drains the topics of its stages into the warehouse, in micro-batches.
//!
//! The path of a batch reads from top to bottom: [`consume`], [`decode`], [`layer`] (enrich and write), [`publish`],
//! and [`path`] that runs them. Modules that reach outside of the process say so in their first line ("edge:");
//! all others are functions of their arguments.

pub mod batch;
pub mod command;
pub mod connect;
pub mod consume;
pub mod dead_letter;
pub mod decode;
pub mod health;
pub mod layer;
pub mod log;
pub mod metrics;
pub mod path;
pub mod policy;
pub mod position;
pub mod publish;
pub mod record;
pub mod rejection;
pub mod serve;
pub mod stage;
pub mod start;
pub mod stored;
pub mod strict;
pub mod vault;
pub mod version;
pub mod warehouse;
