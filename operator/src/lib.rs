//! StreamStage operator: reconciles every `StreamStage` into a worker Deployment and scales it by consumer lag.
//!
//! # The reconcile loop
//!
//! A watch event, a change of the lag or a resync triggers [`controller::reconcile`] for one stage. Each step is a module:
//!
//! 1. [`observe`] reads the owned objects, the referenced Secrets and the lag of the last poll.
//! 2. [`validate`] checks the stage. A violation is a terminal error: the stage is `Stalled` until a user fixes it.
//! 3. [`scale`] decides on the replicas, and [`plan`] builds the five owned objects.
//! 4. [`apply`] writes the objects that drifted, by server-side apply.
//! 5. [`status`] computes the status, and [`events`] the events.
//! 6. [`report`] writes the status, if it changed, and publishes the events.
//!
//! A failed step requeues the stage with [`backoff`]; [`policy`] separates terminal from transient errors. Between
//! reconciles the operator caches only the [`stage_summary`] of each stage.
//!
//! # Where to find what
//!
//! | topic | place |
//! | --- | --- |
//! | lag: poll interval, offsets, rates, stuck partitions | [`lag`], from [`lag::poller`] to [`lag::view`] |
//! | requests to Kafka | [`kafka`], over a [`connection`] |
//! | throughput of each worker, and who is behind | [`lag::tracker`] |
//! | scaling formula: recommended workers for a lag | [`scale::demand`], with the bounds of [`scale::ceiling`] |
//! | stabilization windows, cooldown, rollout and rebalance gates | [`scale::gate`], [`scale::stabilization`] |
//! | state of the algorithm, and how a new leader continues with it | [`scale::state`] |
//! | trigger of a reconcile after a lag poll | [`status::status_difference`] |
//! | conditions, and the values of the printer columns | [`status`] |
//! | schema, CEL rules and printer columns of the CRD | [`crds::stage`] |
//! | names, labels and field managers of the owned objects | [`owned`] |
//! | defaults of the workers | [`defaults`] |
//! | leader election | [`leader`] |
//! | RBAC rules | [`rbac`] |
//! | metrics, health endpoints, logging | [`metrics`], [`http`], [`telemetry::log`] |
//! | command line | [`command`]; [`explain`] and [`simulate`] run the scaling decision without writing anything |
//!
//! Decisions are pure functions. A module that does I/O or reads a clock says `edge:` in its first lines.

pub mod admission;
pub mod apply;
pub mod backoff;
pub mod budgets;
pub mod command;
pub mod conflict;
pub mod connection;
pub mod controller;
pub mod defaults;
pub mod events;
pub mod explain;
pub mod grants;
pub mod hosts;
pub mod http;
pub mod kafka;
pub mod lag;
pub mod leader;
pub mod metrics;
pub mod observe;
pub mod owned;
pub mod plan;
pub mod policy;
pub mod rbac;
pub mod report;
pub mod scale;
pub mod simulate;
pub mod stage_summary;
pub mod status;
pub mod validate;
