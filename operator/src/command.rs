//! The commands of the operator.

use clap::{Parser, Subcommand};

pub mod check;
pub mod crd;
pub mod explain;
pub mod run;
pub mod scope;
pub mod simulate;

/// Keeps the workers of every StreamStage as the resource describes them.
///
/// Run it in the cluster, installed by the chart; or outside, with the cluster of the current kubeconfig.
#[derive(Debug, Parser)]
#[command(
    name = "operator",
    version,
    after_help = "\
Examples:
  operator crd | kubectl apply --server-side -f -
  operator run --worker-image streamstage/worker:0.1.0
  operator explain stg --namespace orders
  operator simulate --file stage.yaml --trace trace.csv --svg trace.svg

Exit codes: 0 done, or stopped by SIGTERM or SIGINT; 1 the operator cannot go on, or lost its lease; 2 wrong usage."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the operator can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Keep the stages of the cluster until SIGTERM or SIGINT
    Run(run::Run),
    /// Ask the API server whether the operator is installed as it should be: one line each
    Check(check::Check),
    /// Tell why a stage has as many workers as it has: inputs, formula, gates and outcome
    ///
    /// It reads the lag by itself, so run it where the operator runs, and Kafka's names resolve: kubectl exec deploy/streamstage-operator -- operator explain …
    Explain(explain::Explain),
    /// Play a trace of arrivals against the decision of the operator, without a cluster
    Simulate(simulate::Simulate),
    /// Print the definition of the resource StreamStage, as YAML
    Crd,
}
