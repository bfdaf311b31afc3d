//! The Data Vault, described by data: from one model come the keys, the rows, the statement and the tables.
//!
//! Place in the flow: the dds layer maps each message to a [`VaultOrder`], pushes a batch of them into
//! [`VaultRows`], and binds the columns to [`insert_statement`]. Pure: no connection, no clock, no randomness, so
//! that every row is a function of the messages alone and not of when, where or in which order they arrived.

mod ddl;
mod hash;
mod model;
mod order;
mod rows;
mod sql;
mod table;
mod views;

pub use ddl::migration;
pub use hash::{hash_diff, hash_key, normalise};
pub use model::{Attribute, DrivingKey, Hub, Link, MODEL, Model, Parent, Satellite};
pub use order::{Field, Scope, Value, VaultLine, VaultOrder};
pub use rows::{Column, VaultRows};
pub use sql::insert_statement;
pub use table::{Kind, Table, TableColumn};
