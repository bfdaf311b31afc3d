//! Tests of the public API of the crate, in one binary: linking is the slow part.

mod contract;
mod document;
mod reference;
mod resource;
