use super::*;
use sha2::{Digest as _, Sha256};

fn randn(seed: u64, count: usize) -> Vec<f32> {
    Generator::new(seed).randn(count)
}

/// Bits of numbers, to compare them exactly.
fn bits(numbers: &[f32]) -> Vec<u32> {
    numbers.iter().map(|number| number.to_bits()).collect()
}

#[test]
fn a_million_numbers_are_torchs() {
    let bytes: Vec<u8> = randn(7, 1 << 20)
        .into_iter()
        .flat_map(f32::to_le_bytes)
        .collect();
    let hash: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(
        hash,
        "048e6a85a0ced2cc2d83ee1f69ba5de1b6480d9b1aa602d9ea5c9b65c304afae"
    );
}

#[test]
fn last_block_of_an_uneven_count_is_torchs() {
    let numbers = randn(42, 37);
    assert_eq!(
        bits(&numbers[..4]),
        [0x3ff6_a529, 0x3fbe_5f53, 0x3f66_9567, 0xc006_c0db]
    );
    assert_eq!(
        bits(&numbers[33..]),
        [0x3f65_71d7, 0x3d4c_6997, 0x4011_11e8, 0x3f96_e7dd]
    );
}

#[test]
fn fewer_than_sixteen_numbers_are_torchs() {
    assert_eq!(
        bits(&randn(3, 5)),
        [
            0x3f4d_a380,
            0x3e33_0786,
            0x3db6_3a26,
            0xbf1d_1ca0,
            0x3d3d_29cf
        ]
    );
}

#[test]
fn only_the_lower_half_of_a_seed_counts_as_in_torch() {
    assert_eq!(randn(1 << 32 | 5, 64), randn(5, 64));
}

#[test]
fn images_of_a_request_take_blocks_of_one_stream() {
    for count in [64, 20] {
        let all = randn(9, 3 * count);
        for index in 0..3 {
            let noise = Noise {
                seed: 9,
                index,
                count: 3,
            };
            assert_eq!(
                Generator::new(9).image_noise(noise, count),
                all[index as usize * count..][..count],
                "{count} {index}"
            );
        }
    }
}
