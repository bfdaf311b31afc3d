//! Promises of the controller, one theme per module, against an API server in this process.
#![expect(
    clippy::disallowed_types,
    reason = "edge: a client of an API server in the process"
)]

mod api_server;
mod process;
mod stages;

mod drift;
mod failures;
mod hostile;
mod killed;
mod leader_election;
mod planned;
mod pod_failures;
mod refusals;
mod replicas;
mod running;
mod tenants;
