//! What a head alone decides: from which pages requests may come, for which hosts, and of which type a body is.

use crate::refusal::Refusal;
use http::header::{CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use http::request::Parts;
use http::{Method, StatusCode};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Hosts and origins that are taken.
///
/// A browser sends the requests of any page that it shows. Without a list those of other origins are refused; with a
/// list of hosts those that reach this program under another name are, too (a name that somebody else points here).
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Names, with or without a port, that `Host` may have; none: any.
    pub hosts: Vec<String>,
    /// Origins other than the own that may ask, such as `https://studio.example.com`.
    pub origins: Vec<String>,
}

impl Policy {
    /// Whether a request is taken.
    ///
    /// # Errors
    /// 403 or 415, as the answer says.
    pub fn check(&self, head: &Parts) -> Result<(), Refusal> {
        let host = text(head, &HOST).or_else(|| head.uri.authority().map(|name| name.as_str()));
        self.check_host(host)?;
        self.check_origin(head, host)?;
        check_type(head)
    }

    fn check_host(&self, host: Option<&str>) -> Result<(), Refusal> {
        let name = host.unwrap_or_default();
        let is_known = |known: &String| {
            known.eq_ignore_ascii_case(name) || known.eq_ignore_ascii_case(without_port(name))
        };
        if self.hosts.is_empty() || self.hosts.iter().any(is_known) {
            return Ok(());
        }
        let message = "this host is not served here; --allowed-host names those that are";
        Err(forbidden("foreign_host", message))
    }

    fn check_origin(&self, head: &Parts, host: Option<&str>) -> Result<(), Refusal> {
        let origin = head
            .headers
            .get(ORIGIN)
            .map(|value| value.to_str().unwrap_or("null"));
        let is_listed = |origin: &str| {
            self.origins
                .iter()
                .any(|known| known.eq_ignore_ascii_case(origin))
        };
        let is_own = match origin {
            Some(origin) => is_listed(origin) || host.is_some_and(|host| is_of(origin, host)),
            None => text(head, &SEC_FETCH_SITE) != Some("cross-site"),
        };
        if is_own {
            return Ok(());
        }
        let message =
            "requests from other origins are refused; --allowed-origin names those that may ask";
        Err(forbidden("foreign_origin", message))
    }
}

fn text<'a>(head: &'a Parts, name: &HeaderName) -> Option<&'a str> {
    head.headers.get(name)?.to_str().ok()
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether an origin is the host's own: the same name and port, where the scheme's port may be left out.
fn is_of(origin: &str, host: &str) -> bool {
    let (scheme, own) = origin.split_once("://").unwrap_or_default();
    let default = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => return false,
    };
    let bare = |name: &str| {
        name.strip_suffix(default)
            .unwrap_or(name)
            .to_ascii_lowercase()
    };
    bare(own) == bare(host)
}

/// A page can send any body without asking first, but not one of these types. OpenAI's routes take no others.
fn check_type(head: &Parts) -> Result<(), Refusal> {
    if head.method != Method::POST || !head.uri.path().starts_with("/v1/") {
        return Ok(());
    }
    let kind = head.headers.get(CONTENT_TYPE).map(|value| value.as_bytes());
    let essence = kind.and_then(|kind| kind.split(|byte| *byte == b';').next());
    let essence = essence.unwrap_or_default().trim_ascii();
    let is_taken = [b"application/json".as_slice(), b"multipart/form-data"]
        .iter()
        .any(|known| essence.eq_ignore_ascii_case(known));
    if is_taken {
        return Ok(());
    }
    let message = "the header Content-Type must be application/json or multipart/form-data here";
    let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    Err(Refusal::new(status, "unsupported_media_type", message))
}

fn forbidden(reason: &'static str, message: &'static str) -> Refusal {
    Refusal::new(StatusCode::FORBIDDEN, reason, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(policy: &Policy, headers: &[(&str, &str)]) -> &'static str {
        let mut request = http::Request::post("/v1/images/generations");
        let json = [("content-type", "application/json")];
        for (name, value) in json.iter().chain(headers) {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        policy
            .check(&head)
            .err()
            .map_or("taken", |refusal| refusal.reason)
    }

    #[test]
    fn a_page_of_another_origin_cannot_ask() {
        let policy = Policy::default();
        for (headers, expected) in [
            (&[("host", "x:8080")][..], "taken"),
            (&[("host", "x:8080"), ("origin", "http://x:8080")], "taken"),
            (&[("host", "X"), ("origin", "http://x:80")], "taken"),
            (&[("host", "x"), ("origin", "https://x")], "taken"),
            (
                &[("host", "x:8080"), ("origin", "http://x")],
                "foreign_origin",
            ),
            (
                &[("host", "x"), ("origin", "http://evil")],
                "foreign_origin",
            ),
            (&[("host", "x"), ("origin", "null")], "foreign_origin"),
            (
                &[("host", "x"), ("origin", "http://x.evil")],
                "foreign_origin",
            ),
            (
                &[("host", "x"), ("sec-fetch-site", "cross-site")],
                "foreign_origin",
            ),
            (&[("host", "x"), ("sec-fetch-site", "same-origin")], "taken"),
            (&[("host", "x"), ("sec-fetch-site", "none")], "taken"),
        ] {
            assert_eq!(outcome(&policy, headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn listed_origins_may_ask() {
        let policy = Policy {
            origins: vec!["https://studio.example.com".into()],
            ..Policy::default()
        };
        let studio = [
            ("host", "x"),
            ("origin", "https://studio.example.com"),
            ("sec-fetch-site", "cross-site"),
        ];
        assert_eq!(outcome(&policy, &studio), "taken");
        let evil = [("host", "x"), ("origin", "https://evil")];
        assert_eq!(outcome(&policy, &evil), "foreign_origin");
    }

    #[test]
    fn with_a_list_no_other_host_is_served() {
        let policy = Policy {
            hosts: vec!["images.example.com".into(), "[::1]:8080".into()],
            ..Policy::default()
        };
        for (host, expected) in [
            ("images.example.com", "taken"),
            ("Images.example.com:8080", "taken"),
            ("[::1]:8080", "taken"),
            ("[::1]:9", "foreign_host"),
            ("rebound.evil", "foreign_host"),
        ] {
            assert_eq!(outcome(&policy, &[("host", host)]), expected, "{host}");
        }
        assert_eq!(outcome(&policy, &[]), "foreign_host");
    }

    #[test]
    fn a_body_of_openais_routes_says_that_it_is_json_or_a_form() {
        for (path, kind, expected) in [
            (
                "/v1/images/generations",
                Some("Application/JSON; charset=utf-8"),
                true,
            ),
            (
                "/v1/images/edits",
                Some("multipart/form-data; boundary=x"),
                true,
            ),
            ("/v1/images/generations", None, false),
            ("/v1/images/generations", Some(""), false),
            ("/v1/images/generations", Some("text/plain"), false),
            ("/v1/images/generations", Some("application/jsonl"), false),
            ("/prompt", None, true),
        ] {
            let mut request = http::Request::post(path);
            if let Some(kind) = kind {
                request = request.header(CONTENT_TYPE, kind);
            }
            let (head, ()) = request.body(()).unwrap().into_parts();
            let taken = Policy::default().check(&head).is_ok();
            assert_eq!(taken, expected, "{path} {kind:?}");
        }
    }
}
