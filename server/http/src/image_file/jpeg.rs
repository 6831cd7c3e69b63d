//! JPEG (ITU-T T.81, annex B).

use super::{Kept, Problem, array, unreadable};

/// Scans of a file. libjpeg writes 10 for a progressive image; each one visits every block of the image.
const MOST_SCANS: u32 = 64;
/// Bytes of tables of a file: each table costs microseconds, and encoders write a few for each scan.
const MOST_TABLES: usize = 256 << 10;

const TEM: u8 = 0x01;
const DHT: u8 = 0xc4;
const JPG: u8 = 0xc8;
const DAC: u8 = 0xcc;
const RST0: u8 = 0xd0;
const RST7: u8 = 0xd7;
const SOI: u8 = 0xd8;
const EOI: u8 = 0xd9;
const SOS: u8 = 0xda;
const DQT: u8 = 0xdb;
const DRI: u8 = 0xdd;
const APP0: u8 = 0xe0;
const APP14: u8 = 0xee;

/// Keeps frame, tables, scans, and of the application segments JFIF's and Adobe's, which say what the colours are; returns
/// the width and height that the frame says. What follows the image is dropped.
pub(super) fn strip(file: &mut Vec<u8>) -> Result<(u32, u32), Problem> {
    let mut frame = None;
    let (mut scans, mut tables) = (0, 0);
    let mut at = 2;
    let mut kept = Kept::new(file, 2);
    while let Some((marker, start)) = next_marker(kept.file, at) {
        if matches!(marker, TEM | SOI | RST0..=RST7) {
            at = start + 2;
            continue;
        }
        if marker == EOI {
            kept.keep(start..start + 2);
            break;
        }
        let Some(length) = array(kept.file, start + 2).map(u16::from_be_bytes) else {
            break;
        };
        let mut end = (start + 2 + usize::from(length)).min(kept.file.len());
        let keep = match marker {
            DHT | DQT => {
                tables += usize::from(length);
                true
            }
            SOS => {
                scans += 1;
                end = end_of_scan(kept.file, end);
                true
            }
            // Arithmetic coding: no decoder of ours reads it, and it says so.
            DAC | DRI | APP0 | APP14 => true,
            0xc0..=0xcf if marker != JPG => {
                let sides = [start + 7, start + 5].map(|at| array(kept.file, at));
                let [Some(width), Some(height)] = sides else {
                    return Err(unreadable("it ends in its header"));
                };
                let said = frame.replace([width, height].map(u16::from_be_bytes));
                if said.is_some() {
                    return Err(unreadable("it has two frames"));
                }
                true
            }
            _ => false,
        };
        if scans > MOST_SCANS {
            let message = format!("it has more than {MOST_SCANS} scans; save it with fewer");
            return Err(unreadable(message));
        }
        if tables > MOST_TABLES {
            return Err(unreadable("it consists of tables"));
        }
        if keep {
            kept.keep(start..end);
        }
        at = end;
    }
    kept.finish();
    match frame {
        Some([width, height]) if scans > 0 => Ok((u32::from(width), u32::from(height))),
        _ => Err(unreadable("it ends before its image")),
    }
}

/// The next marker and where its `0xff` is, from `at` on.
fn next_marker(file: &[u8], at: usize) -> Option<(u8, usize)> {
    let mut pairs = file.get(at..)?.windows(2).enumerate();
    // 0xff before another is a fill byte, before 0 no marker.
    let (offset, pair) = pairs.find(|(_, pair)| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff))?;
    Some((pair[1], at + offset))
}

/// Where a scan's coded data ends: at the next marker that does not belong to it.
fn end_of_scan(file: &[u8], from: usize) -> usize {
    let mut at = from;
    while let Some((marker, start)) = next_marker(file, at) {
        if !matches!(marker, RST0..=RST7) {
            return start;
        }
        at = start + 2;
    }
    file.len()
}
