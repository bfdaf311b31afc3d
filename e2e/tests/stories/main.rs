//! User stories on a real Kubernetes cluster, one module each: `make e2e`.
//!
//! They run one after another, because some of them stop the operator or a node.

mod bad_image;
mod cluster;
mod conflict;
mod credentials;
mod deletion;
mod drift;
mod edit;
mod examples;
mod helm;
mod leader;
mod limits;
mod load;
mod monitoring;
mod nodes;
mod operator_killed;
mod orders;
mod outage;
mod pod_security;
mod quiet;
mod resource_exists;
mod rules;
mod scale;
mod secrets;
mod suspend;
mod tenants;
