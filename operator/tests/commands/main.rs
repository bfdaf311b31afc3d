//! The commands of the operator as processes, and what it answers over HTTP.

mod check;
mod endpoints;
mod explain;
mod kubeconfig;
mod simulate;
