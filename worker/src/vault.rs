//! The Data Vault of the DDS layer. One model generates the hash keys, the rows, the statement and the tables.
//!
//! The DDS layer maps each message to a [`VaultOrder`], pushes a batch of them into [`VaultRows`], and binds the columns
//! to [`insert_statement`]. Never uses a connection, a clock or randomness, so that every row depends only on the
//! messages, not on the time or order of their arrival.

mod ddl;
mod hash;
mod kind;
mod model;
mod order;
mod rows;
mod sql;
mod table;
mod views;

pub use ddl::definitions;
pub use hash::{BusinessKey, hash_diff, hash_key};
pub use kind::Kind;
pub use model::{Attribute, DrivingKey, Effectivity, Hub, Link, MODEL, Model, Parent, Satellite};
pub use order::{Field, Scope, Value, VaultLine, VaultOrder, VersionedBy};
pub use rows::{Column, VaultRows};
pub use sql::insert_statement;
pub use table::{Table, TableColumn};
