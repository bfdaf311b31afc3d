//! A headless Service: an address for each worker's figures, and for whoever finds scrape targets by Service.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod::{PORT, PORT_NAME};
use crate::owned::selector;
use crate::validate::Valid;

pub(super) fn plan(valid: &Valid<'_>) -> Service {
    Service {
        metadata: super::metadata(valid),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            // A worker that waits for a service has figures that tell so.
            publish_not_ready_addresses: Some(true),
            selector: Some(selector(valid.stage)),
            ports: Some(vec![ServicePort {
                name: Some(PORT_NAME.to_owned()),
                port: PORT,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String(PORT_NAME.to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
