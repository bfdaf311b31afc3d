//! Replays an arrival trace through the operator's scaling algorithm.
//!
//! Pure: the time is that of the trace. Lag and rates come from [`crate::lag::tracker`] and decisions from
//! [`crate::scale`], as in a cluster. Only the cluster is modeled: a topic, a consumer group with a sticky assignor,
//! rebalances, workers that start with a delay and may be slow, a database that they share. [`suite`] runs many traces.

pub mod arrivals;
mod assignor;
pub mod chart;
mod cluster;
pub mod curve;
mod delay;
pub mod model;
mod operator;
mod oracle;
pub mod outcome;
mod replay;
pub mod sample;
pub mod suite;
pub mod trace;

pub use self::outcome::Outcome;
pub use self::replay::simulate;

#[cfg(test)]
mod tests {
    use crds::StreamStage;

    use super::arrivals::Arrivals;
    use super::model::ClusterModel;
    use super::trace::Trace;
    use super::*;
    use crate::scale::ScalingSettings;

    fn settings(scaling: &str) -> ScalingSettings {
        let document = format!(
            "{{apiVersion: streamstage.dev/v1alpha1, kind: StreamStage, metadata: {{name: cdm}}, spec: {{layer: cdm, \
             source: {{bootstrapServers: ['kafka:9092'], topic: facts}}, \
             warehouse: {{host: postgres, database: orders}}, scaling: {scaling}}}}}"
        );
        ScalingSettings::from(&serde_saphyr::from_str::<StreamStage>(&document).expect("a valid stage"))
    }

    #[test]
    fn a_burst_is_followed_by_one_scale_down() {
        let trace: Trace = "seconds,records_per_second\n0,0\n10,20000\n20,0\n400,0\n"
            .parse()
            .expect("a valid trace");
        let model = ClusterModel {
            startup_seconds: 5,
            capacity: Some(1000.0),
            ..ClusterModel::default()
        };
        let arrivals = Arrivals::Trace(trace.spread_over(6));
        let Outcome {
            samples, decisions, ..
        } = simulate(&settings("{pollInterval: 1s}"), &model, &arrivals, 400);
        let steps: Vec<(u32, u32)> = decisions
            .iter()
            .filter(|decision| decision.from != decision.to)
            .map(|decision| (decision.from, decision.to))
            .collect();
        // The first polls during the burst see only a part of it.
        assert_eq!(steps, [(1, 2), (2, 6), (6, 1)], "{decisions:#?}");
        assert!(decisions[0].second <= 12, "{decisions:#?}");
        assert_eq!(samples.last().map(|sample| sample.lag), Some(0));
    }

    #[test]
    fn an_idle_topic_with_min_replicas_0_stays_at_zero_workers() {
        let trace: Trace = "seconds,0,1\n0,0,0\n60,0,0\n".parse().expect("a valid trace");
        let model = ClusterModel::default();
        let Outcome {
            samples, decisions, ..
        } = simulate(&settings("{minReplicas: 0}"), &model, &Arrivals::Trace(trace), 60);
        assert!(samples.iter().all(|sample| sample.replicas == 0), "{decisions:?}");
    }
}
