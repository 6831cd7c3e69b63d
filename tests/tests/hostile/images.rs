//! Image files that are small and claim to be large.

use crate::{Front, Scene, told};
use anyhow::{Context, Result};
use futures::future::join_all;
use serde_json::json;
use std::net::SocketAddr;
use std::time::Duration;
use zimage_tests::traffic::{exchange, png, request, status};

const LIMIT: Duration = Duration::from_secs(120);
const AT_ONCE: usize = 64;
const UNPACKED: u32 = 512 << 20;

fn crc(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ (0xedb8_8320 * (crc & 1))
        })
    })
}

fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let length = u32::try_from(data.len()).expect("a chunk is small");
    let named = [kind.as_slice(), data].concat();
    [
        &length.to_be_bytes()[..],
        &named,
        &crc(&named).to_be_bytes(),
    ]
    .concat()
}

/// A PNG of 64x64 with further chunks before its pixels.
fn with_chunks(chunks: &[u8]) -> Result<Vec<u8>> {
    let file = png(64, 64)?;
    let at = file.windows(4).position(|window| window == b"IDAT");
    let at = at.context("a PNG has pixels")? - 4;
    Ok([&file[..at], chunks, &file[at..]].concat())
}

/// Half a gibibyte of zeros, deflated.
fn zeros() -> Result<Vec<u8>> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, 1 << 14, UNPACKED >> 14);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header()?;
    let mut stream = writer.stream_writer()?;
    std::io::copy(
        &mut std::io::Read::take(std::io::repeat(0), UNPACKED.into()),
        &mut stream,
    )?;
    stream.finish()?;
    writer.finish()?;
    let mut data = Vec::new();
    let mut rest = &file[8..];
    while let Some((head, tail)) = rest.split_at_checked(8) {
        let length = u32::from_be_bytes(head[..4].try_into()?) as usize;
        if head[4..] == *b"IDAT" {
            data.extend_from_slice(&tail[..length]);
        }
        rest = &tail[length + 4..];
    }
    Ok(data)
}

/// A WebP of a million chunks without a byte, and no image.
fn webp_of_chunks() -> Vec<u8> {
    let canvas = [b"VP8X".as_slice(), &10_u32.to_le_bytes(), &[0; 10]].concat();
    let chunks = b"XMP \0\0\0\0".repeat(1 << 20);
    let length = u32::try_from(4 + canvas.len() + chunks.len()).expect("it is small");
    [
        b"RIFF".as_slice(),
        &length.to_le_bytes(),
        b"WEBP",
        &canvas,
        &chunks,
    ]
    .concat()
}

/// A JPEG of 65535x65535 pixels with as many tables as fit into eight megabytes.
fn jpeg_of_tables() -> Vec<u8> {
    let frame = [0xff, 0xc0, 0, 11, 8, 0xff, 0xff, 0xff, 0xff, 1, 1, 0x11, 0];
    let table = [[0xff, 0xdb, 0, 67, 0].as_slice(), &[1; 64]].concat();
    [[0xff, 0xd8].as_slice(), &frame, &table.repeat(120_000)].concat()
}

/// Files that unpack to half a gibibyte somewhere, or claim it.
fn bombs() -> Result<Vec<Vec<u8>>> {
    let zeros = zeros()?;
    let mut wide = png(64, 64)?;
    let header = [
        b"IHDR".as_slice(),
        &30_000_u32.to_be_bytes(),
        &30_000_u32.to_be_bytes(),
        &wide[24..29],
    ]
    .concat();
    wide.splice(
        12..33,
        [header.as_slice(), &crc(&header).to_be_bytes()].concat(),
    );
    let frames = [&u32::MAX.to_be_bytes()[..], &[0; 4]].concat();
    Ok(vec![
        with_chunks(&chunk(b"iCCP", &[b"x\0\0", zeros.as_slice()].concat()))?,
        with_chunks(&chunk(b"zTXt", &[b"x\0\0", zeros.as_slice()].concat()))?,
        with_chunks(&chunk(
            b"iTXt",
            &[b"x\0\x01\0\0\0", zeros.as_slice()].concat(),
        ))?,
        with_chunks(&chunk(b"eXIf", &vec![0; 4 << 20]))?,
        with_chunks(&chunk(b"acTL", &frames))?,
        wide,
        webp_of_chunks(),
        jpeg_of_tables(),
    ])
}

/// Sends all at once, half of them as an image of another size than is asked for; returns the statuses.
async fn send(target: SocketAddr) -> Result<Vec<Option<u16>>> {
    let bodies: Vec<_> = bombs()?
        .iter()
        .flat_map(|file| {
            let image = base64_simd::STANDARD.encode_to_string(file);
            ["64x64", "128x128"].map(|size| {
                request(&json!({"prompt": "a fox", "size": size, "image": image}).to_string())
            })
        })
        .collect();
    let sent = bodies.iter().cycle().take(AT_ONCE);
    let answers = join_all(sent.map(|body| exchange(target, body.as_bytes(), LIMIT))).await;
    answers
        .into_iter()
        .map(|answer| Ok(status(&answer?)))
        .collect()
}

async fn withstands(front: Front) -> Result<()> {
    let mut scene = Scene::start().await?;
    let target = scene.address(front);
    let statuses = scene.withstands(front, send(target)).await?;
    // A profile that nobody reads does no harm: the image may be made.
    let known = [Some(200), Some(400), Some(413), Some(429), Some(503)];
    assert!(
        statuses.iter().all(|status| known.contains(status)),
        "{statuses:?}"
    );
    let refused = statuses.iter().filter(|status| **status != Some(200));
    told::of_the_refused(scene.front(front), refused.count()).await?;
    scene.stands()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_image_bombs_at_a_gateway_end_no_server() -> Result<()> {
    withstands(Front::Gateway).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_image_bombs_at_a_server_do_not_end_it() -> Result<()> {
    withstands(Front::Server).await
}
