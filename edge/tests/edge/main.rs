//! The edge between real sockets.

#![expect(clippy::unwrap_used, reason = "a test's helpers fail as the test does")]

mod clients;
mod floods;
mod stage;

use stage::{BOUNDS, post, stage, status};

const HEAD: &str = "POST / HTTP/1.1\r\nHost: x\r\n";

#[tokio::test]
async fn what_http_forbids_is_answered_in_openais_envelope_counted_and_closed() {
    let stage = stage(BOUNDS).await;
    let refused = [
        ("Content-Length: 14\r\nContent-Length: 5\r\n", "400"),
        ("Content-Length: +14\r\n", "400"),
        ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "400"),
        ("Transfer-Encoding: xchunked\r\n", "400"),
        ("Host: y\r\n", "400"),
        ("no colon\r\n", "400"),
        ("X-A: b\0c\r\n", "400"),
        ("Expect: 200-maybe\r\n", "417"),
    ];
    for (headers, expected) in refused {
        let answer = stage.say(format!("{HEAD}{headers}\r\n")).await;
        assert_eq!(status(&answer), expected, "{headers:?}: {answer}");
        assert!(
            answer.contains("content-type: application/json"),
            "{answer}"
        );
        assert!(
            answer.contains("\"type\":\"invalid_request_error\""),
            "{answer}"
        );
        assert!(
            answer.contains("nosniff") && answer.contains("no-store"),
            "{answer}"
        );
    }
    assert_eq!(status(&stage.say("GET / HTTP/1.1\r\n\r\n").await), "400");
    assert_eq!(status(&stage.say("SSH-2.0-x\r\n\r\n").await), "400");
    assert_eq!(stage.rejected("malformed_head"), 9);
    assert_eq!(stage.rejected("expectation_failed"), 1);
}

#[tokio::test]
async fn a_head_that_is_too_large_is_answered_431_however_it_comes() {
    let stage = stage(BOUNDS).await;
    let large = format!("{HEAD}X-A: {}", "a".repeat(1 << 20));
    assert_eq!(status(&stage.say(&large).await), "431");
    let lines = format!("{HEAD}{}\r\n", "A: b\r\n".repeat(300));
    assert_eq!(status(&stage.say(&lines).await), "431");
    let mut client = stage.client().await;
    for piece in large.as_bytes().chunks(4096).take(8) {
        client.send(piece).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(status(&client.all().await), "431");
    assert_eq!(stage.rejected("head_too_large"), 3);
}

#[tokio::test]
async fn bodies_of_every_framing_arrive_whole() {
    let stage = stage(BOUNDS).await;
    let close = "Connection: close\r\n";
    let body = "x".repeat(300_000);
    for (request, length) in [
        (
            format!("{HEAD}{close}Content-Length: 300000\r\n\r\n{body}"),
            "300000",
        ),
        (format!("{HEAD}{close}\r\n"), "0"),
        (
            "POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
            "3",
        ),
        (
            format!(
                "{HEAD}Transfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n"
            ),
            "5",
        ),
    ] {
        let answer = stage.say(&request).await;
        assert_eq!(status(&answer), "200", "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{length}")), "{answer}");
    }
}

#[tokio::test]
async fn a_request_in_chunks_ends_its_connection_and_hides_no_other() {
    let stage = stage(BOUNDS).await;
    let hidden = post("/", "hidden");
    let chunks = "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let answer = stage.say(format!("{HEAD}{chunks}{hidden}")).await;
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn bad_chunks_are_400() {
    let stage = stage(BOUNDS).await;
    for chunks in [
        "-1\r\nabc\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nabc",
        "zz\r\n",
    ] {
        let answer = stage
            .say(format!("{HEAD}Transfer-Encoding: chunked\r\n\r\n{chunks}"))
            .await;
        assert_eq!(status(&answer), "400", "{chunks:?}: {answer}");
    }
    assert_eq!(stage.rejected("body_broken"), 3);
}

#[tokio::test]
async fn many_requests_share_a_connection_even_if_they_come_at_once() {
    let stage = stage(BOUNDS).await;
    let mut client = stage.client().await;
    client
        .send(post("/", "a") + &post("/", "bb") + "\r\n" + &post("/", "ccc"))
        .await;
    for length in ["1", "2", "3"] {
        assert!(
            client
                .until(&format!("\r\n\r\n{length}"))
                .await
                .starts_with("HTTP/1.1 200")
        );
    }
    client.send("\r\n\r\n").await;
    client.send("nonsense\r\n\r\n").await;
    assert_eq!(status(&client.all().await), "400");
}

#[tokio::test]
async fn a_body_is_asked_for_only_when_it_may_come() {
    let stage = stage(BOUNDS).await;
    let expect = "Expect: 100-continue\r\n";
    let mut client = stage.client().await;
    client
        .send(format!("{HEAD}{expect}Content-Length: 3\r\n\r\n"))
        .await;
    assert_eq!(
        client.until("\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    client.send("abc").await;
    assert_eq!(status(&client.until("\r\n\r\n3").await), "200");
    let refused = stage
        .say(format!("{HEAD}{expect}Content-Length: 99999999\r\n\r\n"))
        .await;
    assert_eq!(status(&refused), "413");
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_the_answer_arrives_while_the_client_still_sends() {
    let stage = stage(BOUNDS).await;
    let body = "x".repeat(8 << 20);
    for head in [
        format!("{HEAD}Content-Length: {}\r\n\r\n", body.len()),
        format!(
            "{HEAD}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n",
            body.len()
        ),
    ] {
        let answer = stage.say(head + &body).await;
        assert_eq!(status(&answer), "413", "{answer}");
    }
    assert_eq!(stage.rejected("body_too_large"), 2);
}

#[tokio::test]
async fn a_page_of_another_origin_is_refused_before_its_body() {
    let stage = stage(BOUNDS).await;
    let answer = stage
        .say(format!(
            "{HEAD}Origin: http://evil\r\nContent-Length: 9\r\nConnection: close\r\n\r\n"
        ))
        .await;
    assert_eq!(status(&answer), "403", "{answer}");
    assert_eq!(stage.rejected("foreign_origin"), 1);
}

#[tokio::test]
async fn a_handler_that_fails_is_500_without_its_words() {
    let stage = stage(BOUNDS).await;
    let answer = stage.say(post("/panic", "{}")).await;
    assert_eq!(status(&answer), "500", "{answer}");
    assert!(!answer.contains("as the test wants"), "{answer}");
    assert_eq!(
        status(
            &stage
                .say(post("/", "").replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n"))
                .await
        ),
        "200"
    );
}
