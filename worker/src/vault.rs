//! The Data Vault of the DDS layer. One plan generates the hash keys, the rows, the statement and the tables.
//!
//! The DDS layer maps each message to a [`Row`], pushes a batch of them into [`VaultRows`], and binds the columns
//! to [`insert_statement`]. Never uses a connection, a clock or randomness, so that every row depends only on the
//! messages, not on the time or order of their arrival.

mod ddl;
mod hash;
mod row;
mod rows;
mod sql;
mod table;
mod views;

pub use ddl::definitions;
pub use hash::{BusinessKey, hash_diff, hash_key};
pub use row::{Elements, Row, Value};
pub use rows::{Column, VaultRows};
pub use sql::insert_statement;
pub use table::{Table, TableColumn, tables};
