//! Defaults of the workers, for the fields that a stage leaves out: image, pull policy, pull secrets and resources.

use std::collections::BTreeMap;
use std::str::FromStr;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Defaults of the workers, set by the flags of `operator run`.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerDefaults {
    /// Worker image; a stage overrides it with `spec.worker.image`.
    pub image: String,
    /// Pull policy of the image: `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// Names of the image pull secrets, in the namespace of each stage.
    pub image_pull_secrets: Vec<String>,
    /// Resource requests and limits; a stage overrides each of the two as a whole.
    pub resources: ResourceRequirements,
}

/// Resource quantities by resource name, in the syntax of a flag: `cpu=100m,memory=64Mi`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResourceQuantities(pub BTreeMap<String, Quantity>);

impl FromStr for ResourceQuantities {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pairs = text.split(',').filter(|pair| !pair.is_empty());
        let quantities = pairs.map(|pair| {
            let (name, quantity) = pair
                .split_once('=')
                .filter(|(name, quantity)| !name.is_empty() && !quantity.is_empty())
                .ok_or_else(|| {
                    format!("`{pair}` is not a resource quantity: write name=quantity, such as cpu=100m")
                })?;
            Ok((name.to_owned(), Quantity(quantity.to_owned())))
        });
        quantities.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_are_parsed_and_invalid_ones_are_rejected_with_an_example() {
        let quantities: ResourceQuantities = "cpu=100m,memory=64Mi".parse().expect("two quantities");
        assert_eq!(quantities.0["memory"], Quantity("64Mi".into()));
        assert_eq!("".parse(), Ok(ResourceQuantities::default()));
        for text in ["cpu", "cpu=", "=1"] {
            assert!(
                text.parse::<ResourceQuantities>()
                    .expect_err(text)
                    .contains("cpu=100m"),
                "{text}"
            );
        }
    }
}
