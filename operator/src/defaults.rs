//! What a stage gets when it does not say otherwise: the image of its workers and their resources.

use std::collections::BTreeMap;
use std::str::FromStr;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The defaults that the operator was installed with.
#[derive(Clone, Debug, PartialEq)]
pub struct Defaults {
    /// Image of the workers.
    pub image: String,
    /// When a node pulls the image: `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: String,
    /// Secrets, in the stage's namespace, that the image is pulled with.
    pub image_pull_secrets: Vec<String>,
    /// Requests and limits of a worker.
    pub resources: ResourceRequirements,
}

/// Amounts of resources as a flag writes them: `cpu=100m,memory=64Mi`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Amounts(pub BTreeMap<String, Quantity>);

impl FromStr for Amounts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pairs = text.split(',').filter(|pair| !pair.is_empty());
        let amounts = pairs.map(|pair| {
            let (name, amount) = pair
                .split_once('=')
                .filter(|(name, amount)| !name.is_empty() && !amount.is_empty())
                .ok_or_else(|| format!("`{pair}` is no amount: write name=amount, such as cpu=100m"))?;
            Ok((name.to_owned(), Quantity(amount.to_owned())))
        });
        amounts.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_anything_else_is_refused_with_an_example() {
        let amounts: Amounts = "cpu=100m,memory=64Mi".parse().expect("two amounts");
        assert_eq!(amounts.0["memory"], Quantity("64Mi".into()));
        assert_eq!("".parse(), Ok(Amounts::default()));
        for text in ["cpu", "cpu=", "=1"] {
            assert!(
                text.parse::<Amounts>().expect_err(text).contains("cpu=100m"),
                "{text}"
            );
        }
    }
}
