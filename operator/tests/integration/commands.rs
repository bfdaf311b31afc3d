//! The subcommands of the operator, each in a process of its own, and its HTTP endpoints.

mod check;
mod closed_pipe;
mod endpoints;
mod explain;
pub(crate) mod kubeconfig;
mod simulate;
