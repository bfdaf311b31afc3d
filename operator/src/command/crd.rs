//! `operator crd`: prints the `CustomResourceDefinition` of `StreamStage`, which the chart ships too.

use crds::StreamStage;
use kube::CustomResourceExt as _;
use telemetry::stdout;

/// Prints the CRD as YAML to standard output.
///
/// # Errors
/// Fails if the CRD cannot be serialized, or standard output cannot be written.
pub fn print() -> anyhow::Result<()> {
    Ok(stdout::print(serde_saphyr::to_string(&StreamStage::crd())?)?)
}
