//! The stories of the users, on a real cluster: `make e2e`. One file each; they run one after another, since some of them
//! take the operator or a node away.

#[path = "stories/bad_image.rs"]
mod bad_image;
#[path = "stories/conflict.rs"]
mod conflict;
#[path = "stories/credentials.rs"]
mod credentials;
#[path = "stories/deletion.rs"]
mod deletion;
#[path = "stories/drift.rs"]
mod drift;
#[path = "stories/edit.rs"]
mod edit;
#[path = "stories/examples.rs"]
mod examples;
#[path = "stories/helm.rs"]
mod helm;
#[path = "stories/leader.rs"]
mod leader;
#[path = "stories/limits.rs"]
mod limits;
#[path = "stories/load.rs"]
mod load;
#[path = "stories/monitoring.rs"]
mod monitoring;
#[path = "stories/name_taken.rs"]
mod name_taken;
#[path = "stories/nodes.rs"]
mod nodes;
#[path = "stories/operator_killed.rs"]
mod operator_killed;
#[path = "stories/orders.rs"]
mod orders;
#[path = "stories/outage.rs"]
mod outage;
#[path = "stories/pod_security.rs"]
mod pod_security;
#[path = "stories/quiet.rs"]
mod quiet;
#[path = "stories/rules.rs"]
mod rules;
#[path = "stories/scale.rs"]
mod scale;
#[path = "stories/secrets.rs"]
mod secrets;
#[path = "stories/suspend.rs"]
mod suspend;
