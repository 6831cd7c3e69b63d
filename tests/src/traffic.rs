//! Clients of the API, honest and otherwise, and what they got.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Where images are made.
pub const GENERATIONS: &str = "/v1/images/generations";

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Asks for an image by a prompt.
    Text,
    /// Asks for an image by a prompt and another image.
    Image,
    /// Asks which models there are.
    Models,
    /// Goes away before it has the answer, or before its request is complete.
    Aborted,
    /// Sends what is no request, or one that cannot be served.
    Malformed,
}

impl Kind {
    /// The kind of a client's request by its number: of 20, 2 are aborted and 1 is malformed.
    pub fn of(number: usize) -> Self {
        match number % 20 {
            3 | 13 => Self::Aborted,
            7 => Self::Malformed,
            2 | 6 | 11 | 16 => Self::Image,
            9 | 19 => Self::Models,
            _ => Self::Text,
        }
    }

    /// Whether the client deserves an answer of 200.
    pub const fn honest(self) -> bool {
        matches!(self, Self::Text | Self::Image | Self::Models)
    }
}

/// What one request got.
#[derive(Clone, Debug)]
pub struct Answer {
    /// What the client did.
    pub kind: Kind,
    /// The status; None when the connection ended without one.
    pub status: Option<u16>,
    /// Time from the begin of the request to the end of the answer.
    pub took: Duration,
    /// What is worth telling of a failure.
    pub note: String,
}

impl Answer {
    /// Whether it is one that a sound service does not give: a 5xx, or none for an honest request.
    pub fn unexpected(&self) -> bool {
        match self.status {
            Some(status) => status >= 500 || (self.kind.honest() && status != 200 && status != 429),
            None => self.kind.honest(),
        }
    }
}

/// One client, which sends one request after the other.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    target: SocketAddr,
    size: String,
    timeout: Duration,
}

impl Client {
    /// A client of the API at `target` whose images have `size`, such as 64x64.
    ///
    /// # Errors
    /// When the HTTP client cannot be made.
    pub fn new(target: SocketAddr, size: &str, timeout: Duration) -> Result<Self> {
        let http = reqwest::Client::builder().timeout(timeout).build()?;
        Ok(Self {
            http,
            target,
            size: size.to_owned(),
            timeout,
        })
    }

    /// Sends the request of a number.
    pub async fn send(&self, kind: Kind, number: usize) -> Answer {
        let begun = Instant::now();
        let outcome = match kind {
            Kind::Text => self.post(&self.text(number)).await.map(Some),
            Kind::Image => match self.image(number) {
                Ok(body) => self.post(&body).await.map(Some),
                Err(error) => Err(error),
            },
            Kind::Models => self.models().await.map(Some),
            Kind::Aborted => self.abort(number).await.map(|()| None),
            Kind::Malformed => self.malformed(number).await,
        };
        let took = begun.elapsed();
        match outcome {
            Ok(answer) => {
                let (status, note) = answer.map_or((None, String::new()), |(status, text)| {
                    (Some(status), text.chars().take(200).collect())
                });
                Answer {
                    kind,
                    status,
                    took,
                    note,
                }
            }
            Err(error) => Answer {
                kind,
                status: None,
                took,
                note: format!("{error:#}"),
            },
        }
    }

    fn text(&self, number: usize) -> Value {
        json!({"prompt": format!("a fox in the snow, number {number}"), "size": self.size, "seed": number})
    }

    fn image(&self, number: usize) -> Result<Value> {
        let (width, height) = self
            .size
            .split_once('x')
            .and_then(|(width, height)| Some((width.parse().ok()?, height.parse().ok()?)))
            .context("a size is WIDTHxHEIGHT")?;
        let mut body = self.text(number);
        body["image"] = json!(base64_simd::STANDARD.encode_to_string(png(width, height)?));
        Ok(body)
    }

    async fn post(&self, body: &Value) -> Result<(u16, String)> {
        let url = format!("http://{}{GENERATIONS}", self.target);
        let response = self.http.post(url).json(body).send().await?;
        let status = response.status().as_u16();
        Ok((status, response.text().await?))
    }

    async fn models(&self) -> Result<(u16, String)> {
        let url = format!("http://{}/v1/models", self.target);
        let response = self.http.get(url).send().await?;
        let status = response.status().as_u16();
        Ok((status, response.text().await?))
    }

    /// Goes away at another point each time: within the head, within the body, or while the image is made.
    async fn abort(&self, number: usize) -> Result<()> {
        let request = request(&self.text(number).to_string());
        let sent = match number % 3 {
            0 => request.len() / 4,
            1 => request.len() - 10,
            _ => request.len(),
        };
        let mut connection = TcpStream::connect(self.target).await?;
        connection.write_all(&request.as_bytes()[..sent]).await?;
        tokio::time::sleep(Duration::from_millis(number as u64 * 37 % 200)).await;
        Ok(())
    }

    /// None: the connection was closed without an answer.
    async fn malformed(&self, number: usize) -> Result<Option<(u16, String)>> {
        let sent = malformed(number);
        let answer = exchange(self.target, sent.as_bytes(), self.timeout).await?;
        Ok(status(&answer).map(|status| (status, String::from_utf8_lossy(&answer).into_owned())))
    }
}

/// A request for an image with that body, as its bytes are sent.
pub fn request(body: &str) -> String {
    format!(
        "POST {GENERATIONS} HTTP/1.1\r\nHost: fox\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn malformed(number: usize) -> String {
    match number / 20 % 10 {
        0 => request(r#"{"prompt": "a fox", "#),
        1 => request(r#"{"prompt": "a fox", "no_such_field": {"a": [1, 2, 3]}}"#),
        2 => request(r#"{"prompt": "a fox", "size": "63x63"}"#),
        3 => request(r#"{"prompt": "a fox", "n": 0}"#),
        4 => request(r#"{"prompt": "a fox", "image": "no base64!", "size": "64x64"}"#),
        5 => request(r#"{"prompt": "a fox", "model": "no-such-model"}"#),
        6 => "GARBAGE\r\n\r\n".to_owned(),
        7 => format!(
            "POST {GENERATIONS} HTTP/1.1\r\nHost: fox\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"
        ),
        8 => format!(
            "POST {GENERATIONS} HTTP/1.1\r\nHost: fox\r\nContent-Type: application/json\r\nContent-Length: 99999999\r\n\r\n"
        ),
        _ => format!(
            "POST {GENERATIONS} HTTP/1.1\r\nHost: fox\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        ),
    }
}

/// Sends bytes over a connection of its own and reads until its end, or until the status is there and nothing more comes.
///
/// # Errors
/// When no connection can be made, or nothing ends it in time.
pub async fn exchange(target: SocketAddr, bytes: &[u8], limit: Duration) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    let talk = async {
        let mut connection = TcpStream::connect(target).await?;
        // A server that refuses early closes before it has read all.
        let _sent = connection.write_all(bytes).await;
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read) = connection.read(&mut buffer).await
            && read > 0
        {
            answer.extend_from_slice(&buffer[..read]);
            if complete(&answer) {
                break;
            }
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(limit, talk)
        .await
        .with_context(|| format!("no end within {limit:?}"))??;
    Ok(answer)
}

/// Whether an answer with a length is all there.
fn complete(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    length.is_some_and(|length| body.len() >= length)
}

/// The status of an answer's bytes.
pub fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(line).ok()?.parse().ok()
}

/// A PNG of that size.
///
/// # Errors
/// When it cannot be encoded.
pub fn png(width: u32, height: u32) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, width, height);
    encoder.set_color(png::ColorType::Rgb);
    let mut writer = encoder.write_header()?;
    let pixels: Vec<u8> = (0..width * height * 3)
        .map(|at| u8::try_from(at.wrapping_mul(2_654_435_761) >> 24).unwrap_or_default())
        .collect();
    writer.write_image_data(&pixels)?;
    writer.finish()?;
    Ok(file)
}

/// The slowest of the fastest `share` of times; zero when there are none.
pub fn quantile(times: &[Duration], share: f64) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index"
    )]
    let at = ((sorted.len() as f64 * share).ceil() as usize).saturating_sub(1);
    sorted.get(at).copied().unwrap_or_default()
}

/// How many answers of each kind had which status; 0 stands for none.
pub fn tally(answers: &[Answer]) -> BTreeMap<(Kind, u16), usize> {
    let mut tally = BTreeMap::new();
    for answer in answers {
        *tally
            .entry((answer.kind, answer.status.unwrap_or(0)))
            .or_default() += 1;
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_clients_goes_away_and_a_twentieth_is_malformed() {
        let kinds: Vec<_> = (0..200).map(Kind::of).collect();
        let count = |kind| kinds.iter().filter(|other| **other == kind).count();
        assert_eq!((count(Kind::Aborted), count(Kind::Malformed)), (20, 10));
    }

    #[test]
    fn a_status_is_read_from_the_first_line_alone() {
        assert_eq!(status(b"HTTP/1.1 429 Too Many Requests\r\n"), Some(429));
        assert_eq!(status(b""), None);
        assert_eq!(status(b"HTTP/1.1 4"), None);
    }

    #[test]
    fn refusals_of_an_honest_client_are_unexpected_unless_the_service_is_full() {
        let answer = |kind, status| Answer {
            kind,
            status,
            took: Duration::ZERO,
            note: String::new(),
        };
        for status in [Some(400), Some(500), Some(503), None] {
            assert!(answer(Kind::Text, status).unexpected(), "{status:?}");
        }
        for (kind, status) in [
            (Kind::Text, Some(200)),
            (Kind::Text, Some(429)),
            (Kind::Malformed, Some(400)),
            (Kind::Malformed, None),
            (Kind::Aborted, None),
        ] {
            assert!(!answer(kind, status).unexpected(), "{kind:?} {status:?}");
        }
        assert!(answer(Kind::Malformed, Some(503)).unexpected());
    }

    #[test]
    fn a_quantile_is_a_time_that_was_measured() {
        let times: Vec<_> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(quantile(&times, 0.5), Duration::from_millis(50));
        assert_eq!(quantile(&times, 0.99), Duration::from_millis(99));
        assert_eq!(quantile(&[], 0.5), Duration::ZERO);
    }
}
