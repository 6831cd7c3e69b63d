//! What there is: one table of methods and paths. Pure.

use http::Method;
use http::method::Method as M;
use zimage_crds::contract::{HEALTHZ_PATH, READYZ_PATH};

/// What a path is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Sent to a pod.
    Images,
    /// The gateway's own list.
    Models,
    /// Whether the process must be started again.
    Healthz,
    /// Whether requests may be sent here.
    Readyz,
}

/// Why nothing is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The path takes these methods.
    Method(&'static str),
    /// There is no such path.
    Path,
}

const READ: (&[Method], &str) = (&[M::GET, M::HEAD], "GET, HEAD");
const WRITE: (&[Method], &str) = (&[M::POST], "POST");
type Endpoint = (&'static str, (&'static [Method], &'static str), Kind);
const TABLE: [Endpoint; 4] = [
    ("/v1/images/generations", WRITE, Kind::Images),
    ("/v1/models", READ, Kind::Models),
    (HEALTHZ_PATH, READ, Kind::Healthz),
    (READYZ_PATH, READ, Kind::Readyz),
];

/// What a request asks for.
pub(crate) fn find(method: &Method, path: &str) -> Result<Kind, Missing> {
    let (_, (methods, allow), kind) = TABLE
        .iter()
        .find(|(known, ..)| *known == path)
        .ok_or(Missing::Path)?;
    if methods.contains(method) {
        Ok(*kind)
    } else {
        Err(Missing::Method(allow))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_found_as_it_is_written_and_with_its_methods() {
        assert_eq!(find(&M::POST, "/v1/images/generations"), Ok(Kind::Images));
        assert_eq!(find(&M::HEAD, "/readyz"), Ok(Kind::Readyz));
        assert_eq!(
            find(&M::GET, "/v1/images/generations"),
            Err(Missing::Method("POST"))
        );
        for path in [
            "/metrics",
            "//v1/models",
            "/v1/models/",
            "/x/%2e%2e/v1/models",
            "",
        ] {
            assert_eq!(find(&M::GET, path), Err(Missing::Path), "{path}");
        }
    }
}
