//! The operator: keeps the workers of every `StreamStage` as the resource describes them.
//!
//! One reconcile reads like a sentence: [`observe`] -> [`validate`] -> [`plan`] -> [`apply`] -> [`status`] -> [`report`].
//! What decides is a function of its arguments; what reaches the cluster says `edge:` in its first line.
//!
//! - [`command`]: the command line
//! - [`controller`]: which changes lead to a reconcile, and the reconcile itself
//! - [`outline`]: what is kept of every stage in between
//! - [`observe`], [`apply`], [`report`]: the edges, where objects are read and written
//! - [`validate`], [`plan`], [`scale`], [`status`], [`events`], [`policy`]: the decisions
//! - [`poll`]: reads the lag of every stage and asks for a reconcile when there is news; [`kafka`]: the edge that asks
//!   Kafka, over a [`connection`]; [`lag`]: what its answers make together
//! - [`simulate`], [`explain`]: the same decision over a trace, and in words
//! - [`leader`], [`serve`], [`metrics`], [`rights`]: what surrounds them

pub mod apply;
pub mod command;
pub mod connection;
pub mod controller;
pub mod defaults;
pub mod events;
pub mod explain;
pub mod kafka;
pub mod lag;
pub mod leader;
pub mod log;
pub mod metrics;
pub mod observe;
pub mod outline;
pub mod owned;
pub mod plan;
pub mod policy;
pub mod poll;
pub mod report;
pub mod rights;
pub mod scale;
pub mod serve;
pub mod simulate;
pub mod status;
pub mod validate;
