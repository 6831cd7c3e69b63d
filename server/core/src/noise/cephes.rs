//! One lane of `avx_mathfun.h`: Cephes' single precision logarithm, sine and cosine.
//!
//! `mul_add` stands where PyTorch's compiler fuses: it decides the last bit.

/// Natural logarithm of a positive normal number.
#[inline(always)]
pub(super) fn ln(x: f32) -> f32 {
    let bits = x.to_bits();
    let mut exponent = ((bits >> 23) as i32 - 0x7e) as f32;
    // The mantissa, from 0.5 to 1.
    let mut x = f32::from_bits(bits & 0x007f_ffff | 0x3f00_0000);
    if x < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        x = (x - 1.0) + x;
    } else {
        x -= 1.0;
    }
    let z = x * x;
    let polynomial = [
        -1.151_461e-1,
        1.167_699_84e-1,
        -1.242_014_1e-1,
        1.424_932_3e-1,
        -1.666_805_8e-1,
        2.000_071_4e-1,
        -2.499_999_4e-1,
        3.333_333e-1,
    ];
    let y = polynomial
        .iter()
        .fold(7.037_683_6e-2, |y: f32, &term| y.mul_add(x, term));
    let y = (y * x).mul_add(z, exponent * -2.121_944_4e-4);
    let y = z.mul_add(-0.5, y);
    exponent.mul_add(0.693_359_4, x + y)
}

/// Sine and cosine of a number that is not negative.
#[inline(always)]
pub(super) fn sin_cos(x: f32) -> (f32, f32) {
    // Octant, made even.
    let octant = ((x * std::f32::consts::FRAC_2_PI * 2.0) as i32 + 1) & !1;
    let y = octant as f32;
    let x = y.mul_add(-0.785_156_25, x);
    let x = y.mul_add(-2.418_756_5e-4, x);
    let x = y.mul_add(-3.774_895e-8, x);
    let z = x * x;

    let cosine = 2.443_315_7e-5_f32
        .mul_add(z, -1.388_731_6e-3)
        .mul_add(z, 4.166_664_6e-2);
    let cosine = (cosine * z).mul_add(z, z * -0.5) + 1.0;
    let sine = (-1.951_529_6e-4_f32)
        .mul_add(z, 8.332_161e-3)
        .mul_add(z, -1.666_665_5e-1);
    let sine = (sine * z).mul_add(x, x);

    let (sine, cosine) = if octant & 2 == 0 {
        (sine, cosine)
    } else {
        (cosine, sine)
    };
    let negative = |number: f32, is: bool| if is { -number } else { number };
    (
        negative(sine, octant & 4 != 0),
        negative(cosine, (octant - 2) & 4 == 0),
    )
}
