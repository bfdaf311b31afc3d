//! What the operator promises, one theme per module, against an API server in the process.
#![expect(
    clippy::disallowed_types,
    reason = "edge: a client of an API server in the process"
)]

mod api_server;
mod process;
mod stages;

mod failures;
mod keeping;
mod killed;
mod leading;
mod planned;
mod refusals;
mod replicas;
mod running;
mod trouble;
