//! Which container image each component is to run. Pure.
//!
//! What was chosen is remembered in the status, which the operator alone writes. What a live Deployment runs is no intent: it
//! counts once, for a deployment whose status does not say yet.

use crate::component::Component;
use zimage_crds::{
    Device, GatewayStatus, PerTier, Tier, TierSpec, UpgradePolicy, ZImageDeploymentSpec,
    ZImageDeploymentStatus,
};

/// The container image of each component.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// Each tier's server; of no meaning where the spec has no such tier.
    pub servers: PerTier<String>,
    /// The gateway.
    pub gateway: String,
}

/// Images of components whose spec names none: the operator's own.
#[derive(Clone, Debug)]
pub struct DefaultImages {
    /// Server of a tier on the CPU.
    pub server: String,
    /// Server of a tier with a GPU.
    pub server_cuda: String,
    /// Gateway.
    pub gateway: String,
}

/// What a component's live Deployment runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// The program's image.
    pub image: Option<String>,
    /// Whether it was told to compute on a GPU.
    pub on_gpu: bool,
}

/// What an image is chosen by.
pub struct Choice<'a> {
    /// What is asked for.
    pub spec: &'a ZImageDeploymentSpec,
    /// What was chosen before.
    pub before: &'a ZImageDeploymentStatus,
    /// What runs.
    pub live: &'a dyn Fn(Component) -> Option<Running>,
    /// The operator's own images.
    pub defaults: &'a DefaultImages,
}

impl Choice<'_> {
    /// The image of each component: the spec's; without one what was chosen before, so that an upgrade of the operator replaces no
    /// pod; the operator's default for a new component, for a tier that gets or loses its GPU, and where the spec says `Follow`.
    pub fn images(&self) -> Images {
        let tiers = self.spec.tiers();
        Images {
            servers: tiers.map(|tier, spec| self.server(tier, spec)),
            gateway: self.gateway(),
        }
    }

    /// The components whose image is not the operator's default although the spec leaves it to the operator.
    pub fn outdated(&self, images: &Images) -> Vec<String> {
        let spec = self.spec;
        let tiers = spec.tiers();
        let tiers = images.servers.iter().filter_map(|(tier, image)| {
            let spec = tiers[tier].filter(|spec| spec.image.is_none())?;
            Some((Component::Server(tier), image, self.default_of(spec)))
        });
        let gateway = spec.gateway.image.is_none();
        let gateway =
            gateway.then_some((Component::Gateway, &images.gateway, &self.defaults.gateway));
        let components = tiers.chain(gateway);
        components
            .filter(|(_, image, default)| image != default)
            .map(|(component, image, default)| {
                format!("{component}: {image}, the operator's is {default}")
            })
            .collect()
    }

    fn server(&self, tier: Tier, spec: Option<&TierSpec>) -> String {
        // A tier that is not there has no image, and none that is asked for.
        let Some(spec) = spec else {
            return String::new();
        };
        let remembered = self.before.tiers()[tier];
        let kept = || match remembered.and_then(|status| status.image.as_ref().zip(status.device)) {
            // The image for the CPU has no CUDA libraries.
            Some((image, device)) => (device == device_of(spec)).then(|| image.clone()),
            None => {
                let live = (self.live)(Component::Server(tier))?;
                let fits = live.on_gpu == spec.uses_gpu();
                live.image.filter(|_| fits)
            }
        };
        self.choose(spec.image.as_ref(), kept, self.default_of(spec))
    }

    fn gateway(&self) -> String {
        let remembered = self.before.gateway.as_ref();
        let remembered = remembered.and_then(|status| status.image.clone());
        let kept = || remembered.or_else(|| (self.live)(Component::Gateway)?.image);
        let wanted = self.spec.gateway.image.as_ref();
        self.choose(wanted, kept, &self.defaults.gateway)
    }

    fn choose(
        &self,
        wanted: Option<&String>,
        kept: impl FnOnce() -> Option<String>,
        default: &str,
    ) -> String {
        let kept = || match self.spec.upgrade_policy {
            UpgradePolicy::Keep => kept(),
            UpgradePolicy::Follow => None,
        };
        let chosen = wanted.cloned().or_else(kept);
        chosen.unwrap_or_else(|| default.to_owned())
    }

    const fn default_of(&self, spec: &TierSpec) -> &String {
        match spec.uses_gpu() {
            true => &self.defaults.server_cuda,
            false => &self.defaults.server,
        }
    }
}

/// Writes down what was chosen.
pub fn remember(images: &Images, spec: &ZImageDeploymentSpec, status: &mut ZImageDeploymentStatus) {
    let tiers = [
        (Tier::Primary, &mut status.primary),
        (Tier::Fallback, &mut status.fallback),
    ];
    for (tier, status) in tiers {
        if let Some((status, spec)) = status.as_mut().zip(spec.tiers()[tier]) {
            status.image = Some(images.servers[tier].clone());
            status.device = Some(device_of(spec));
        }
    }
    status.gateway = Some(GatewayStatus {
        image: Some(images.gateway.clone()),
    });
}

const fn device_of(spec: &TierSpec) -> Device {
    match spec.uses_gpu() {
        true => Device::Cuda,
        false => Device::Cpu,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::scale;
    use crate::reconcile::build::{Desired, build};
    use crate::reconcile::dereference::Existing;
    use k8s_openapi::api::rbac::v1::RoleRef;
    use kube::ResourceExt;
    use serde_json::{Value, json};
    use std::sync::Arc;
    use zimage_crds::ZImageDeployment;

    fn owner(primary: Value) -> ZImageDeployment {
        let source = json!({"persistentVolumeClaim": {"claimName": "models"}});
        let mut tier = json!({"model": {"variant": "Turbo", "source": source}});
        let extra = primary.as_object().unwrap().clone();
        tier.as_object_mut().unwrap().extend(extra);
        serde_json::from_value(json!({
            "apiVersion": "zimage.dev/v1alpha1",
            "kind": "ZImageDeployment",
            "metadata": {"name": "fox", "namespace": "art"},
            "spec": {"primary": tier},
        }))
        .unwrap()
    }

    fn defaults(version: u32) -> DefaultImages {
        DefaultImages {
            server: format!("server:{version}"),
            server_cuda: format!("server-cuda:{version}"),
            gateway: format!("gateway:{version}"),
        }
    }

    /// A deployment after some reconciliations: its status and its children.
    #[derive(Default)]
    struct World {
        status: ZImageDeploymentStatus,
        existing: Existing,
    }

    impl World {
        fn choose(&self, owner: &ZImageDeployment, version: u32) -> (Images, Vec<String>) {
            let choice = Choice {
                spec: &owner.spec,
                before: &self.status,
                live: &|component| self.existing.running(owner, component),
                defaults: &defaults(version),
            };
            let images = choice.images();
            let outdated = choice.outdated(&images);
            (images, outdated)
        }

        /// A reconciliation by this version of the operator.
        fn reconcile(&mut self, owner: &ZImageDeployment, version: u32) -> Images {
            let (images, _) = self.choose(owner, version);
            self.status.primary.get_or_insert_default();
            remember(&images, &owner.spec, &mut self.status);
            let desired = Desired {
                owner,
                images: images.clone(),
                replicas: scale::replicas(&owner.spec),
                peers: None,
                gateway_role: &RoleRef::default(),
                lacking: Vec::new(),
            };
            let children = build(&desired).unwrap().children(None).unwrap();
            self.existing.children = children.into_iter().map(Arc::new).collect();
            images
        }

        /// Somebody changes the primary's live Deployment.
        fn tamper(&mut self, change: impl Fn(&mut Vec<Value>)) {
            for child in &mut self.existing.children {
                if child.name_any() != "fox-primary" {
                    continue;
                }
                let child = Arc::make_mut(child);
                let containers = &mut child.data["spec"]["template"]["spec"]["containers"];
                if let Some(containers) = containers.as_array_mut() {
                    change(containers);
                }
            }
        }

        /// The status is lost, or a version of the operator made all this that wrote no images into it.
        fn without_status(self) -> Self {
            Self {
                status: ZImageDeploymentStatus::default(),
                ..self
            }
        }
    }

    fn made_by_1(owner: &ZImageDeployment) -> World {
        let mut world = World::default();
        world.reconcile(owner, 1);
        world
    }

    /// The primary's image after version 2 of the operator met a spec where version 1 had made another.
    fn image(before: Value, after: Value) -> String {
        made_by_1(&owner(before))
            .reconcile(&owner(after), 2)
            .servers
            .primary
    }

    #[test]
    fn an_upgrade_of_the_operator_keeps_what_runs() {
        assert_eq!(image(json!({}), json!({})), "server:1");
        let gpu = json!({"gpu": {}});
        assert_eq!(image(gpu.clone(), gpu), "server-cuda:1");
        let plain = owner(json!({}));
        assert_eq!(made_by_1(&plain).reconcile(&plain, 2).gateway, "gateway:1");
    }

    #[test]
    fn what_an_operator_made_that_remembered_no_images_is_kept_too() {
        let plain = owner(json!({}));
        let mut world = made_by_1(&plain).without_status();
        let images = world.reconcile(&plain, 2);
        assert_eq!(
            (images.servers.primary, images.gateway),
            ("server:1".to_owned(), "gateway:1".to_owned())
        );
        let sidecar = json!({"name": "mesh-proxy", "image": "proxy:1"});
        let mut world = made_by_1(&plain).without_status();
        world.tamper(|containers| containers.insert(0, sidecar.clone()));
        assert_eq!(world.reconcile(&plain, 2).servers.primary, "server:1");
    }

    #[test]
    fn what_somebody_changes_in_a_live_deployment_is_never_taken_for_a_wish() {
        let plain = owner(json!({}));
        let mut world = made_by_1(&plain);
        world.tamper(|containers| containers[0]["image"] = json!("evil:1"));
        assert_eq!(world.reconcile(&plain, 2).servers.primary, "server:1");
        world.tamper(|containers| {
            containers.insert(0, json!({"name": "mesh-proxy", "image": "proxy:1"}))
        });
        assert_eq!(world.reconcile(&plain, 2).servers.primary, "server:1");
    }

    #[test]
    fn a_tier_that_gets_or_loses_its_gpu_takes_the_image_for_it() {
        assert_eq!(image(json!({}), json!({"gpu": {}})), "server-cuda:2");
        assert_eq!(image(json!({"gpu": {}}), json!({})), "server:2");
        let on_the_cpu = json!({"gpu": {}, "device": "Cpu"});
        assert_eq!(image(json!({"gpu": {}}), on_the_cpu), "server:2");
    }

    #[test]
    fn the_image_of_the_spec_is_taken_as_it_is() {
        let own = json!({"image": "mine:7"});
        assert_eq!(image(json!({}), own.clone()), "mine:7");
        assert_eq!(image(own, json!({})), "mine:7");
    }

    #[test]
    fn an_older_image_is_told_unless_the_spec_names_it_and_follow_takes_the_new_one() {
        let plain = owner(json!({}));
        let world = made_by_1(&plain);
        let (_, outdated) = world.choose(&plain, 2);
        assert_eq!(
            outdated,
            [
                "primary tier: server:1, the operator's is server:2",
                "gateway: gateway:1, the operator's is gateway:2"
            ]
        );
        assert!(world.choose(&plain, 1).1.is_empty());
        let (_, outdated) = world.choose(&owner(json!({"image": "mine:7"})), 2);
        assert_eq!(outdated.len(), 1, "{outdated:?}");
        let mut following = plain;
        following.spec.upgrade_policy = UpgradePolicy::Follow;
        let (images, outdated) = world.choose(&following, 2);
        assert_eq!(
            (images.servers.primary.as_str(), outdated.len()),
            ("server:2", 0)
        );
    }
}
