//! Label and annotation keys that the operator writes and that the gateway and users select by.

/// Recommended label with the application's name; its value is [`NAME_VALUE`].
pub const NAME: &str = "app.kubernetes.io/name";
/// Value of [`NAME`] on every object of a `ZImageDeployment`.
pub const NAME_VALUE: &str = "zimage";
/// Recommended label that holds the name of the `ZImageDeployment`.
pub const INSTANCE: &str = "app.kubernetes.io/instance";
/// Recommended label: `server` or `gateway`.
pub const COMPONENT: &str = "app.kubernetes.io/component";
/// Recommended label; its value is [`MANAGED_BY_VALUE`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`] on every object that the operator owns.
pub const MANAGED_BY_VALUE: &str = "zimage-operator";
/// Tier of a server pod and of what belongs to it: `primary` or `fallback`.
pub const TIER: &str = "zimage.dev/tier";
