//! A request's head, before anything is made of it. Pure.
//!
//! Stricter than RFC 9112 where it leaves a choice: whatever two programs could read differently is refused, so that no
//! request hides in another one.

use crate::refusal::Refusal;
use http::StatusCode;

/// Most bytes of a head.
pub(crate) const MOST_BYTES: usize = 16 << 10;
/// Most header lines.
const MOST_HEADERS: usize = 100;
/// Most bytes of a request's target.
const MOST_TARGET_BYTES: usize = 8 << 10;

/// Most bytes that a body may be said to have: some programs count with signs.
const MOST_ANNOUNCED: u64 = i64::MAX.unsigned_abs();

/// How long the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// So many bytes; 0 where the head says nothing.
    Length(u64),
    /// Its end is marked in it.
    Chunked,
}

/// What is known of a complete head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes up to the body.
    pub(crate) bytes: usize,
    pub(crate) framing: Framing,
    /// HTTP/1.1: the client understands interim responses.
    pub(crate) is_1_1: bool,
}

/// Looks whether `bytes`, which do not begin with an empty line, hold a whole head. `seen` of them were looked at before.
pub(crate) fn examine(bytes: &[u8], seen: usize) -> Result<Option<Head>, Refusal> {
    let Some(end) = end(bytes, seen) else {
        let full = bytes.len() >= MOST_BYTES;
        return if full { Err(too_large()) } else { Ok(None) };
    };
    if end > MOST_BYTES {
        return Err(too_large());
    }
    if has_bare_line_feed(&bytes[..end]) {
        return Err(malformed("a line ends with LF alone, not with CR LF"));
    }
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(&bytes[..end]) {
        Ok(httparse::Status::Complete(length)) => check(&request, length).map(Some),
        Ok(httparse::Status::Partial) => Err(malformed("the head ends too early")),
        Err(httparse::Error::TooManyHeaders) => Err(too_large()),
        Err(error) => Err(malformed(&error.to_string())),
    }
}

/// RFC 9112, section 2.2, lets a server take it; others do not, and read another head.
fn has_bare_line_feed(head: &[u8]) -> bool {
    let mut before = 0;
    head.iter().any(|&byte| {
        let bare = byte == b'\n' && before != b'\r';
        before = byte;
        bare
    })
}

/// Where the head ends: after the first empty line.
fn end(bytes: &[u8], seen: usize) -> Option<usize> {
    let start = seen.saturating_sub(3);
    (start..bytes.len())
        .filter(|&at| bytes[at] == b'\n')
        .find_map(|at| match &bytes[at + 1..] {
            [b'\n', ..] => Some(at + 2),
            [b'\r', b'\n', ..] => Some(at + 3),
            _ => None,
        })
}

fn check(request: &httparse::Request<'_, '_>, bytes: usize) -> Result<Head, Refusal> {
    let is_1_1 = request.version == Some(1);
    let target = request.path.unwrap_or_default();
    if target.len() > MOST_TARGET_BYTES {
        return Err(target_too_long());
    }
    // hyper would refuse it, and say nothing.
    if http::Uri::try_from(target).is_err() {
        return Err(malformed("the target is no URI"));
    }
    let values = |name: &str| {
        let named = request.headers.iter();
        named
            .filter(|header| header.name.eq_ignore_ascii_case(name))
            .map(|header| header.value)
            .collect::<Vec<_>>()
    };
    match values("host").as_slice() {
        [] if is_1_1 => return Err(malformed("HTTP/1.1 needs the header Host")),
        [] => {}
        [host] => check_target(target, host)?,
        _ => return Err(malformed("there are two Hosts")),
    }
    let framing = framing(
        &values("content-length"),
        &values("transfer-encoding"),
        is_1_1,
    )?;
    let expected = values("expect");
    if expected
        .iter()
        .any(|value| !value.eq_ignore_ascii_case(b"100-continue"))
    {
        return Err(expectation_failed());
    }
    Ok(Head {
        bytes,
        framing,
        is_1_1,
    })
}

/// An absolute target must name the host that the header names.
fn check_target(target: &str, host: &[u8]) -> Result<(), Refusal> {
    if target.starts_with('/') || target == "*" {
        return Ok(());
    }
    let authority = target.split_once("://").map_or(target, |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    if authority.as_bytes().eq_ignore_ascii_case(host) {
        Ok(())
    } else {
        Err(malformed("the target names another host than Host"))
    }
}

fn framing(lengths: &[&[u8]], codings: &[&[u8]], is_1_1: bool) -> Result<Framing, Refusal> {
    match (lengths, codings) {
        ([], []) => Ok(Framing::Length(0)),
        ([length], []) => {
            let digits = !length.is_empty() && length.iter().all(u8::is_ascii_digit);
            let text = std::str::from_utf8(length).ok().filter(|_| digits);
            text.and_then(|text| text.parse().ok())
                .filter(|&bytes| bytes <= MOST_ANNOUNCED)
                .map(Framing::Length)
                .ok_or_else(|| malformed("Content-Length is no number of bytes"))
        }
        ([], [coding]) if is_1_1 && coding.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        ([], _) => Err(malformed(
            "the only Transfer-Encoding is chunked, once, of HTTP/1.1",
        )),
        (_, []) => Err(malformed("there are two Content-Lengths")),
        _ => Err(malformed(
            "Content-Length and Transfer-Encoding exclude each other",
        )),
    }
}

/// However the bytes come, the same head is read; what a complete head says lies within its bounds.
///
/// # Panics
/// When that is not so.
#[cfg(fuzzing)]
pub fn fuzz(bytes: &[u8]) {
    let Ok(Some(whole)) = examine(bytes, 0) else {
        return;
    };
    assert!(whole.bytes <= MOST_BYTES.min(bytes.len()));
    for cut in (1..whole.bytes).step_by(1 + whole.bytes / 64) {
        assert_eq!(examine(&bytes[..cut], 0).ok(), Some(None));
        assert_eq!(examine(bytes, cut).ok(), Some(Some(whole)));
    }
}

fn malformed(what: &str) -> Refusal {
    let message = format!("the request cannot be read: {what}");
    Refusal::new(StatusCode::BAD_REQUEST, "malformed_head", message)
}

fn too_large() -> Refusal {
    let message =
        format!("the request's head is larger than {MOST_BYTES} bytes or {MOST_HEADERS} lines");
    let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    Refusal::new(status, "head_too_large", message)
}

fn target_too_long() -> Refusal {
    let message = format!("the request's target is longer than {MOST_TARGET_BYTES} bytes");
    Refusal::new(StatusCode::URI_TOO_LONG, "head_too_large", message)
}

fn expectation_failed() -> Refusal {
    let message = "the only expectation that can be met is 100-continue";
    Refusal::new(
        StatusCode::EXPECTATION_FAILED,
        "expectation_failed",
        message,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LINE: &str = "POST /v1/images/generations HTTP/1.1\r\n";

    fn status(head: &str) -> u16 {
        match examine(head.as_bytes(), 0) {
            Ok(Some(_)) => 200,
            Ok(None) => 0,
            Err(refusal) => refusal.status.as_u16(),
        }
    }

    fn framed(headers: &str) -> Option<Framing> {
        let head = format!("{LINE}Host: x\r\n{headers}\r\n");
        examine(head.as_bytes(), 0)
            .ok()
            .flatten()
            .map(|head| head.framing)
    }

    #[test]
    fn a_body_has_one_length_or_is_chunked() {
        assert_eq!(framed(""), Some(Framing::Length(0)));
        assert_eq!(framed("Content-Length: 14\r\n"), Some(Framing::Length(14)));
        assert_eq!(
            framed("Transfer-Encoding: Chunked\r\n"),
            Some(Framing::Chunked)
        );
        for refused in [
            "Content-Length: 14\r\nContent-Length: 5\r\n",
            "Content-Length: 14\r\nContent-Length: 14\r\n",
            "Content-Length: 14, 14\r\n",
            "Content-Length: +14\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: 0x0e\r\n",
            "Content-Length:\r\n",
            "Content-Length: 99999999999999999999\r\n",
            "Content-Length: 18446744073709551615\r\n",
            "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
            "Transfer-Encoding: chunked, identity\r\n",
            "Transfer-Encoding: identity, chunked\r\n",
            "Transfer-Encoding: \x0bchunked\r\n",
            "Transfer-Encoding : chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "X-A: b\r\n c\r\n",
            "X-A: b\rX-B: c\r\n",
            "X-A: b\0c\r\n",
            "no colon\r\n",
        ] {
            let head = format!("{LINE}Host: x\r\n{refused}\r\n");
            assert_eq!(status(&head), 400, "{refused:?}");
        }
    }

    #[test]
    fn chunks_are_of_http_1_1() {
        let head = "POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(status(head), 400);
    }

    #[test]
    fn http_1_1_names_one_host_and_1_0_may_leave_it_out() {
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), 200);
        assert_eq!(status("GET / HTTP/1.0\r\n\r\n"), 200);
    }

    #[test]
    fn an_absolute_target_names_the_same_host() {
        assert_eq!(
            status("GET http://evil/v1/models HTTP/1.1\r\nHost: x\r\n\r\n"),
            400
        );
        assert_eq!(
            status("GET http://x/v1/models HTTP/1.1\r\nHost: x\r\n\r\n"),
            200
        );
    }

    #[test]
    fn a_line_that_ends_with_a_line_feed_alone_is_refused() {
        assert_eq!(status("GET / HTTP/1.1\nHost: x\n\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: x\nX-A: b\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: x\r\n\n"), 400);
    }

    #[test]
    fn a_head_has_sixteen_kibibytes_and_a_hundred_lines_at_the_most() {
        let with = |bytes: usize| format!("{LINE}Host: x\r\nX-A: {}\r\n\r\n", "a".repeat(bytes));
        assert_eq!(status(&with(15 << 10)), 200);
        assert_eq!(status(&with(16 << 10)), 431);
        let endless = format!("{LINE}Host: x\r\nX-A: {}", "a".repeat(MOST_BYTES));
        assert_eq!(status(&endless), 431);
        let lines = |count: usize| format!("{LINE}Host: x\r\n{}\r\n", "A: b\r\n".repeat(count));
        assert_eq!(status(&lines(99)), 200);
        assert_eq!(status(&lines(100)), 431);
        let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "a".repeat(9000));
        assert_eq!(status(&long), 414);
    }

    #[test]
    fn what_is_no_uri_is_refused_here() {
        for target in [
            "/<x>",
            "/a`b",
            "/v1/models?a=\"b\"",
            "/v1/{id}",
            "x y",
            "//[",
        ] {
            let head = format!("GET {target} HTTP/1.1\r\nHost: x\r\n\r\n");
            let accepted = target.parse::<http::Uri>().is_ok();
            assert_eq!(status(&head), if accepted { 200 } else { 400 }, "{target}");
        }
        let head = b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n";
        assert!(examine(head, 0).is_err());
    }

    #[test]
    fn only_a_continuation_can_be_expected() {
        assert!(framed("Expect: 100-Continue\r\n").is_some());
        let head = format!("{LINE}Host: x\r\nExpect: 200-maybe\r\n\r\n");
        assert_eq!(status(&head), 417);
    }

    #[test]
    fn other_protocols_are_refused() {
        assert_eq!(status("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 400);
        assert_eq!(status("\x16\x03\x01\x02\0\x01\0\x01\n\n"), 400);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_fail(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _outcome = examine(&bytes, 0);
        }

        #[test]
        fn the_end_is_found_however_the_bytes_come(cut in 1_usize..60) {
            let head = format!("{LINE}Host: x\r\nA: b\r\n\r\nbody");
            let bytes = head.as_bytes();
            let whole = examine(bytes, 0).unwrap();
            if examine(&bytes[..cut], 0).unwrap().is_none() {
                prop_assert_eq!(examine(bytes, cut).unwrap(), whole);
            }
        }
    }
}
