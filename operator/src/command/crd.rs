//! `operator crd`: prints the `CustomResourceDefinition` of `StreamStage`, which the chart ships too.

use crds::StreamStage;
use kube::CustomResourceExt as _;

/// Prints the CRD as YAML to standard output.
///
/// # Errors
/// Fails if the CRD cannot be serialized.
///
/// # Panics
/// Panics if standard output is closed.
#[expect(clippy::print_stdout, reason = "the command's own output")]
pub fn print() -> anyhow::Result<()> {
    print!("{}", serde_saphyr::to_string(&StreamStage::crd())?);
    Ok(())
}
