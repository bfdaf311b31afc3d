//! Dead letters: rejected records, stored with their bytes unchanged, one row per source offset.
//!
//! The transaction that advances the position past a record also writes its row: the row is the dead letter. The dead
//! letter topic has a copy of it, which [`crate::copy_task`] produces after the commit. A copy that cannot be produced stays
//! due in its row and delays nothing else.

pub mod copy;
pub mod headers;
pub mod insert;
pub mod origin;
pub mod selection;

pub use headers::{ATTEMPTS_HEADER, count_attempts};
pub use insert::{RejectedFrom, insert};
pub use origin::Origin;
