//! Services: one for clients, and one for each tier, whose EndpointSlices the gateway follows.

use crate::component::Component;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use zimage_crds::contract::{FRONT_PORT, SERVER_PORT};
use zimage_crds::{Tier, ZImageDeployment};

/// The stable address for clients: the object's own name.
pub(super) fn front(owner: &ZImageDeployment) -> Service {
    let metadata = Component::Gateway.metadata_named(owner, owner.name_any());
    service(owner, Component::Gateway, metadata, FRONT_PORT)
}

/// The server pods of a tier.
pub(super) fn tier(owner: &ZImageDeployment, tier: Tier) -> Service {
    let component = Component::Server(tier);
    service(owner, component, component.metadata(owner), SERVER_PORT)
}

fn service(
    owner: &ZImageDeployment,
    component: Component,
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    port: u16,
) -> Service {
    Service {
        metadata,
        spec: Some(ServiceSpec {
            selector: Some(component.selector_labels(owner)),
            ports: Some(vec![ServicePort {
                name: Some("http".to_owned()),
                port: port.into(),
                protocol: Some("TCP".to_owned()),
                target_port: Some(IntOrString::String("http".to_owned())),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}
