//! Plan: the checks that apply to the stages of a warehouse. Pure.

use crds::StreamStage;
use crds::stage::Layer;

use super::gaps::{GAPS, Gap};
use super::{marts, positions, staging, vault};
use crate::decode::DecodeSettings;
use crate::plan::ORDERS;
use crate::plan::vault::{Hub, Link, Satellite};
use crate::stage::{self, StageError};

/// Checks with one result.
pub(super) struct Group {
    /// Statement that is true if there is no finding.
    pub title: &'static str,
    /// Checks in any order.
    pub checks: Vec<Check>,
}

/// One check.
pub(super) enum Check {
    /// Query whose rows are findings.
    Query(String),
    /// Hash keys of a hub.
    Hub(&'static Hub),
    /// Hash keys and references of a link.
    Link(&'static Link),
    /// Hash diffs and references of a satellite.
    Satellite(&'static Satellite),
    /// Rows of the vault that order events should have.
    OrderEvents(DecodeSettings),
    /// Versions that only one of two layers has.
    Gap(&'static Gap),
}

/// Returns the checks for the stages. Two layers are compared if one of the stages reads the output of the other.
///
/// # Errors
/// If the time zone of a stage is unknown.
pub(super) fn plan(stages: &[StreamStage]) -> Result<Vec<Group>, StageError> {
    let has_layer = |layer| stages.iter().any(|stage| stage.spec.layer == layer);
    let mut groups = vec![queries(
        "every offset before a position is accounted for",
        vec![positions::UNACCOUNTED.to_owned()],
    )];
    if has_layer(Layer::Stg) {
        groups.push(queries(
            "order events agree with their versions",
            staging::queries(),
        ));
    }
    if has_layer(Layer::Dds) {
        groups.extend(vault_groups());
    }
    if has_layer(Layer::Cdm) {
        let counters = ["product", "category"].map(marts::counters);
        groups.push(queries("counters = recount of the ledger", counters.into()));
    }
    if chained(stages, Layer::Dds, Layer::Cdm).is_some() {
        groups.push(queries("ledger and names = DDS", marts::vault_queries()));
    }
    if let Some(stg) = chained(stages, Layer::Stg, Layer::Dds) {
        groups.push(Group {
            title: "DDS = STG",
            checks: vec![Check::OrderEvents(stage::decode_settings(stg)?)],
        });
    }
    let gaps = GAPS
        .iter()
        .filter(|gap| chained(stages, gap.upstream, gap.downstream).is_some());
    groups.push(Group {
        title: "versions of the layers are compared",
        checks: gaps.map(Check::Gap).collect(),
    });
    Ok(groups)
}

fn vault_groups() -> [Group; 3] {
    let plan = &ORDERS.vault;
    let hubs = plan.hubs.iter().map(Check::Hub);
    let links = plan.links.iter().map(Check::Link);
    let satellites = plan.satellites.iter().map(Check::Satellite);
    [
        Group {
            title: "hash keys agree, and no row of the vault is an orphan",
            checks: hubs.chain(links).chain(satellites).collect(),
        },
        queries(
            "every version of the vault is complete",
            vault::completeness_queries(plan),
        ),
        queries(
            "current rows = open rows of the timeline",
            vault::view_queries(plan),
        ),
    ]
}

fn queries(title: &'static str, queries: Vec<String>) -> Group {
    Group {
        title,
        checks: queries.into_iter().map(Check::Query).collect(),
    }
}

/// Returns the stage of the layer `upstream` whose output a stage of the layer `downstream` reads.
fn chained(stages: &[StreamStage], upstream: Layer, downstream: Layer) -> Option<&StreamStage> {
    let reads = |topic: &str| {
        stages
            .iter()
            .any(|stage| stage.spec.layer == downstream && stage.spec.source.topic == topic)
    };
    let mut upstream = stages.iter().filter(|stage| stage.spec.layer == upstream);
    upstream.find(|stage| {
        stage
            .spec
            .output
            .as_ref()
            .is_some_and(|output| reads(&output.topic))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn titles(stages: &[StreamStage]) -> Vec<&'static str> {
        plan(stages).unwrap().iter().map(|group| group.title).collect()
    }

    #[test]
    fn two_layers_are_compared_only_if_one_reads_the_output_of_the_other() {
        let stages = crds::document::parse(include_str!("../../../../examples/local.yaml")).unwrap();
        let all = titles(&stages);
        assert!(
            all.contains(&"DDS = STG") && all.contains(&"ledger and names = DDS"),
            "{all:?}"
        );
        for stage in &stages {
            let alone = titles(std::slice::from_ref(stage));
            assert!(
                alone.len() < all.len() && !alone.iter().any(|title| title.contains("= STG")),
                "{alone:?}"
            );
        }
    }
}
