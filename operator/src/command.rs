//! Command line of the operator, one module per subcommand.

use clap::{Parser, Subcommand};

pub mod check;
pub mod crd;
pub mod explain;
pub mod run;
pub mod scope;
pub mod simulate;

/// Kubernetes operator for StreamStage: reconciles each stage into a worker Deployment and scales it by consumer lag
///
/// Runs in the cluster, installed by the chart, or outside, with the current kubeconfig context.
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

Exit codes: 0 success, or stopped by SIGTERM or SIGINT; 1 error, or the lease was lost; 2 invalid usage."
)]
pub struct Cli {
    /// Subcommand to run.
    #[command(subcommand)]
    pub command: Command,
}

/// Subcommands of the operator.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the controller until SIGTERM or SIGINT
    Run(run::Run),
    /// Verify the installation: CRD, permissions and lease, one line per check
    Check(check::Check),
    /// Explain the scaling decision for a stage: inputs, formula, gates, result
    ///
    /// Polls Kafka itself, so run it inside the cluster: kubectl exec deploy/streamstage-operator -- operator explain …
    Explain(explain::Explain),
    /// Replay an arrival trace through the scaling algorithm, without a cluster
    Simulate(simulate::Simulate),
    /// Print the StreamStage CRD as YAML
    Crd,
}
