//! Consumer lag: how many records a stage has not committed yet, per partition.
//!
//! A poll fetches three offsets of every partition of the source topic. Their difference is the lag:
//! `end - max(committed, log start)`. The parts, in the order in which a poll passes through them:
//!
//! 1. [`poller`] runs the polls, each stage at its own interval, over [`crate::kafka`].
//! 2. [`offsets`] builds an [`offsets::OffsetSnapshot`] from the responses, or an [`offsets::LagError`] with a reason.
//!    An unknown lag is never a lag of 0.
//! 3. `start_offsets` commits the start offsets of a group without committed offsets.
//! 4. [`tracker`] compares each snapshot with the previous one: rates, stuck partitions, and what each of the
//!    [`members`] commits.
//! 5. [`store`] holds the tracker and the poll schedule of every stage.
//! 6. [`view`] is the part that a reconcile reads: the lag of one stage at one moment.
//!
//! Nothing in this folder decides on replicas; that is [`crate::scale`].

pub mod members;
pub mod offsets;
pub mod poller;
mod start_offsets;
pub mod store;
pub mod tracker;
pub mod view;
