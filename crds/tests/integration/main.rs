//! Tests of the public API of the crate, in one binary: linking is the slow part.

mod contract;
mod document;
mod model;
mod reference;
mod resource;
