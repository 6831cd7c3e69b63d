//! What the access log says about a request.

use std::net::SocketAddr;
use zimage_crds::Tier;

/// Filled in on the request's way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    /// The request's id, as pods and the client see it.
    pub(crate) request_id: String,
    /// The client's address.
    pub(crate) client: Option<SocketAddr>,
    /// The tier that answered.
    pub(crate) tier: Option<Tier>,
    /// The pod that answered.
    pub(crate) pod: Option<SocketAddr>,
    /// Pods that the request reached.
    pub(crate) attempts: u32,
    /// The answer's status.
    pub(crate) status: u16,
}
