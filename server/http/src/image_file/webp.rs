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

/// What is kept of a file, and what is written into it.
struct Plan {
    kept: Vec<Range<usize>>,
    size: (u32, u32),
    /// Where the flags are, of which only that of an animation stays.
    flags: Option<usize>,
    /// Where an animation's frame says its length, and its length without what is dropped.
    frame: Option<(usize, u32)>,
}

/// Keeps the image's data, of an animation that of the first frame; returns the width and height of the canvas. Alpha is
/// dropped: the pixels are opaque.
pub(super) fn strip(file: &mut Vec<u8>) -> Result<(u32, u32), Problem> {
    let plan = plan(file)?;
    if let Some(at) = plan.flags {
        file[at] &= ANIMATION;
    }
    if let Some((at, length)) = plan.frame {
        file[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }
    let mut front = Kept::new(file, HEADER);
    for range in plan.kept {
        front.keep(range);
    }
    front.finish();
    let length = (file.len() - CHUNK_HEADER) as u32;
    file[4..8].copy_from_slice(&length.to_le_bytes());
    Ok(plan.size)
}

fn plan(file: &[u8]) -> Result<Plan, Problem> {
    let mut chunks = chunks(file, HEADER..file.len());
    let first = chunks.next().ok_or_else(early)?;
    if is_image(&first) {
        return Ok(Plan {
            size: bitstream_size(file, &first)?,
            kept: vec![first.whole],
            flags: None,
            frame: None,
        });
    }
    if &first.kind != b"VP8X" {
        return Err(early());
    }
    let size = canvas(file, &first)?;
    let mut plan = Plan {
        kept: vec![first.whole],
        size,
        flags: Some(first.data.start),
        frame: None,
    };
    if file[first.data.start] & ANIMATION != 0 {
        plan.keep_first_frame(file, chunks)?;
    } else {
        let image = chunks.find(is_image).ok_or_else(early)?;
        if bitstream_size(file, &image)? != size {
            return Err(unreadable("it says two different sizes"));
        }
        plan.kept.push(image.whole);
    }
    Ok(plan)
}

impl Plan {
    /// An animation's parameters come before its frames.
    fn keep_first_frame(&mut self, file: &[u8], mut chunks: Chunks<'_>) -> Result<(), Problem> {
        let mut one = |kind| chunks.find(|chunk| &chunk.kind == kind).ok_or_else(early);
        let (animation, frame) = (one(b"ANIM")?, one(b"ANMF")?);
        let size = frame_size(file, &frame, self.size)?;
        let start = frame.data.start + FRAME_HEADER;
        let mut inside = self::chunks(file, start..frame.data.end);
        let image = inside.find(is_image).ok_or_else(early)?;
        if bitstream_size(file, &image)? != size {
            return Err(unreadable("it says two different sizes"));
        }
        let length = (FRAME_HEADER + image.whole.len()) as u32;
        self.frame = Some((frame.whole.start + 4, length));
        self.kept
            .extend([animation.whole, frame.whole.start..start, image.whole]);
        Ok(())
    }
}

/// Checks what [`strip`] has kept for tables that are too large.
pub(super) fn check(file: &[u8]) -> Result<(), Problem> {
    let is_lossless = |chunk: &Chunk| &chunk.kind == b"VP8L";
    let mut outside = chunks(file, HEADER..file.len());
    let found = outside.find(|chunk| is_lossless(chunk) || &chunk.kind == b"ANMF");
    let image = found.and_then(|chunk| {
        if is_lossless(&chunk) {
            return Some(chunk);
        }
        chunks(file, chunk.data.start + FRAME_HEADER..chunk.data.end).find(is_lossless)
    });
    image.map_or(Ok(()), |image| lossless::check(&file[image.data]))
}

fn early() -> Problem {
    unreadable("it ends before its image")
}

/// The chunks of a part of the file. The last may be cut short. There may be as many as the part has eighths: none is kept.
fn chunks(file: &[u8], part: Range<usize>) -> Chunks<'_> {
    Chunks {
        file,
        at: part.start,
        end: part.end,
    }
}

struct Chunks<'a> {
    file: &'a [u8],
    at: usize,
    end: usize,
}

impl Iterator for Chunks<'_> {
    type Item = Chunk;

    fn next(&mut self) -> Option<Chunk> {
        let (kind, length) = (array(self.file, self.at)?, array(self.file, self.at + 4)?);
        let start = self.at + CHUNK_HEADER;
        if start > self.end {
            return None;
        }
        let length = u32::from_le_bytes(length) as usize;
        let end = start.saturating_add(length).min(self.end);
        let padded = (end + length % 2).min(self.end);
        Some(Chunk {
            kind,
            whole: std::mem::replace(&mut self.at, padded)..padded,
            data: start..end,
        })
    }
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
