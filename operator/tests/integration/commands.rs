//! The subcommands of the operator, each in a process of its own, and its HTTP endpoints.

mod check;
mod endpoints;
mod explain;
mod kubeconfig;
mod simulate;
