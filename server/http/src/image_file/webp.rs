//! WebP (<https://developers.google.com/speed/webp/docs/riff_container>).

mod lossless;

use super::{Kept, Problem, array, unreadable};
use std::ops::Range;

pub(super) use lossless::MOST_TABLE_BYTES;

/// `RIFF`, the file's size, `WEBP`.
const HEADER: usize = 12;
/// A chunk's kind and length.
const CHUNK_HEADER: usize = 8;
/// What stands before the chunks of an animation's frame: place, size, duration and flags.
const FRAME_HEADER: usize = 16;
const ANIMATION: u8 = 0x02;

struct Chunk {
    kind: [u8; 4],
    /// With its header and its padding.
    whole: Range<usize>,
    data: Range<usize>,
}

/// Keeps the image's data, of an animation that of the first frame; returns the width and height of the canvas. Alpha is
/// dropped: the pixels are opaque.
pub(super) fn strip(file: &mut Vec<u8>) -> Result<(u32, u32), Problem> {
    let mut chunks = chunks(file, HEADER..file.len()).into_iter();
    let early = || unreadable("it ends before its image");
    let first = chunks.next().ok_or_else(early)?;
    let mut kept = Vec::new();
    let size = if &first.kind == b"VP8X" {
        let canvas = canvas(file, &first)?;
        let animated = file[first.data.start] & ANIMATION != 0;
        file[first.data.start] &= ANIMATION;
        kept.push(first.whole);
        if animated {
            let all: Vec<_> = chunks.collect();
            let one = |kind| all.iter().find(|chunk| &chunk.kind == kind);
            let (Some(animation), Some(frame)) = (one(b"ANIM"), one(b"ANMF")) else {
                return Err(early());
            };
            let size = frame_size(file, frame, canvas)?;
            let start = frame.data.start + FRAME_HEADER;
            let inside = self::chunks(file, start..frame.data.end);
            let image = inside
                .iter()
                .find(|chunk| is_image(chunk))
                .ok_or_else(early)?;
            if bitstream_size(file, image)? != size {
                return Err(unreadable("it says two different sizes"));
            }
            kept.push(animation.whole.clone());
            kept.push(frame.whole.start..start);
            kept.push(image.whole.clone());
            let length = (FRAME_HEADER + image.whole.len()) as u32;
            let at = frame.whole.start + 4;
            file[at..at + 4].copy_from_slice(&length.to_le_bytes());
        } else {
            let image = chunks.find(is_image).ok_or_else(early)?;
            if bitstream_size(file, &image)? != canvas {
                return Err(unreadable("it says two different sizes"));
            }
            kept.push(image.whole);
        }
        canvas
    } else if is_image(&first) {
        let size = bitstream_size(file, &first)?;
        kept.push(first.whole);
        size
    } else {
        return Err(early());
    };
    let mut front = Kept::new(file, HEADER);
    for range in kept {
        front.keep(range);
    }
    front.finish();
    let length = (file.len() - CHUNK_HEADER) as u32;
    file[4..8].copy_from_slice(&length.to_le_bytes());
    Ok(size)
}

/// Checks what [`strip`] has kept for tables that are too large.
pub(super) fn check(file: &[u8]) -> Result<(), Problem> {
    let outside = chunks(file, HEADER..file.len());
    let frame = outside.iter().find(|chunk| &chunk.kind == b"ANMF");
    let inside = frame.map(|frame| chunks(file, frame.data.start + FRAME_HEADER..frame.data.end));
    let mut all = outside.iter().chain(inside.iter().flatten());
    match all.find(|chunk| &chunk.kind == b"VP8L") {
        Some(image) => lossless::check(&file[image.data.clone()]),
        None => Ok(()),
    }
}

/// The chunks of a part of the file. The last may be cut short.
fn chunks(file: &[u8], part: Range<usize>) -> Vec<Chunk> {
    let mut found = Vec::new();
    let mut at = part.start;
    while let (Some(kind), Some(length)) = (array(file, at), array(file, at + 4)) {
        let start = at + CHUNK_HEADER;
        if start > part.end {
            break;
        }
        let length = u32::from_le_bytes(length) as usize;
        let end = start.saturating_add(length).min(part.end);
        let padded = (end + length % 2).min(part.end);
        found.push(Chunk {
            kind,
            whole: at..padded,
            data: start..end,
        });
        at = padded;
    }
    found
}

fn is_image(chunk: &Chunk) -> bool {
    matches!(&chunk.kind, b"VP8 " | b"VP8L")
}

/// Width and height of `VP8X`.
fn canvas(file: &[u8], chunk: &Chunk) -> Result<(u32, u32), Problem> {
    let side = |at| sized(file, &chunk.data, at);
    match (side(4), side(7)) {
        (Some(width), Some(height)) => Ok((width, height)),
        _ => Err(unreadable("it ends in its header")),
    }
}

/// Width and height of an animation's frame, which must lie on the canvas.
fn frame_size(file: &[u8], frame: &Chunk, canvas: (u32, u32)) -> Result<(u32, u32), Problem> {
    let value = |at| sized(file, &frame.data, at);
    let (Some(x), Some(y), Some(width), Some(height)) = (value(0), value(3), value(6), value(9))
    else {
        return Err(unreadable("it ends in a frame's header"));
    };
    // Places are stored halved, and `sized` adds one.
    let lies_on = |place: u32, side: u32, whole: u32| 2 * (place - 1) + side <= whole;
    if lies_on(x, width, canvas.0) && lies_on(y, height, canvas.1) {
        Ok((width, height))
    } else {
        Err(unreadable("a frame of it lies outside"))
    }
}

/// A number of 24 bits at `at` of a chunk, plus one.
fn sized(file: &[u8], data: &Range<usize>, at: usize) -> Option<u32> {
    let bytes = array::<3>(file.get(data.clone())?, at)?;
    Some(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]) + 1)
}

/// Width and height that the compressed data itself says.
fn bitstream_size(file: &[u8], chunk: &Chunk) -> Result<(u32, u32), Problem> {
    let early = || unreadable("it ends before its image");
    let data = &file[chunk.data.clone()];
    if &chunk.kind == b"VP8L" {
        return lossless::size(data).ok_or_else(early);
    }
    // RFC 6386, 9.1: a key frame's tag of three bytes, a start code, and sides of 14 bits.
    let sides = [6, 8].map(|at| array(data, at).map(u16::from_le_bytes));
    let [Some(width), Some(height)] = sides else {
        return Err(early());
    };
    Ok((u32::from(width & 0x3fff), u32::from(height & 0x3fff)))
}
