//! What the fuzz target of `tests/fuzz` calls; there with `--cfg fuzzing` alone, which cargo-fuzz sets.

use super::body::parse;
use crate::app::Identity;
use crate::image_file::ImageFile;
use zimage_core::limits::Limits;
use zimage_core::variant::Variant;

/// A body of `POST /v1/images/generations`. Panics when an accepted one asks for what the limits forbid.
pub fn body(data: &[u8]) {
    let identity = Identity {
        variant: Variant::Turbo,
        alias: Some("alias".to_owned()),
        tier: None,
    };
    let limits = Limits::default();
    let Ok(body) = parse(data, &identity, &limits) else {
        return;
    };
    let defaults = identity.variant.defaults();
    let Ok(request) = body.parameters.resolve(defaults, &limits, 1) else {
        return;
    };
    assert!(limits.images().contains(&request.noise.count));
    assert_eq!(limits.check(&request), Ok(()), "{request:?}");
}

/// An image file, decoded when it has up to a megapixel. Panics when it takes more memory than was announced for it, as far
/// as the target's allocator counts, or has other pixels than it said.
pub fn image_file(data: &[u8]) {
    let Ok(file) = ImageFile::read(data.to_vec()) else {
        return;
    };
    let (width, height) = file.size();
    if u64::from(width) * u64::from(height) > 1 << 20 {
        return;
    }
    if let Ok(pixels) = file.decode() {
        assert_eq!((pixels.width(), pixels.height()), (width, height));
    }
}
