//! Services: one for clients, and one for each tier, whose EndpointSlices the gateway follows.

use super::part::Part;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use zimage_crds::{Tier, ZImageDeployment};

/// The stable address for clients: port 80 of the object's own name.
pub(super) fn front(owner: &ZImageDeployment) -> Service {
    let metadata = Part::Gateway.metadata_named(owner, owner.name_any());
    service(owner, Part::Gateway, metadata, 80)
}

/// The server pods of a tier: port 8000.
pub(super) fn tier(owner: &ZImageDeployment, tier: Tier) -> Service {
    let part = Part::Server(tier);
    service(owner, part, part.metadata(owner), 8000)
}

fn service(
    owner: &ZImageDeployment,
    part: Part,
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    port: i32,
) -> Service {
    Service {
        metadata,
        spec: Some(ServiceSpec {
            selector: Some(part.selector_labels(owner)),
            ports: Some(vec![ServicePort {
                name: Some("http".to_owned()),
                port,
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String("http".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
