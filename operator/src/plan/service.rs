//! Headless Service of the workers: one DNS address per worker, for scrape target discovery by Service.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata::metadata;
use super::pod::{HTTP_PORT, HTTP_PORT_NAME};
use crate::owned::selector;
use crate::validate::Valid;

pub(super) fn plan(valid: &Valid<'_>) -> Service {
    Service {
        metadata: metadata(valid),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // The metrics of a worker that waits for a dependency show which one is unavailable.
            publish_not_ready_addresses: Some(true),
            selector: Some(selector(valid.stage)),
            ports: Some(vec![ServicePort {
                name: Some(HTTP_PORT_NAME.to_owned()),
                port: HTTP_PORT,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String(HTTP_PORT_NAME.to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
