//! `operator crd`: the definition of the resource, as the chart ships it.

use crds::StreamStage;
use kube::CustomResourceExt as _;

/// Prints the definition of the resource.
///
/// # Errors
/// When standard output is closed.
#[expect(clippy::print_stdout, reason = "the command's own output")]
pub fn print() -> anyhow::Result<()> {
    print!("{}", serde_saphyr::to_string(&StreamStage::crd())?);
    Ok(())
}
