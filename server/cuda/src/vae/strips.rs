//! Decoding's last layers, strip by strip: where memory is short, the largest images are never there as a whole.
//!
//! A strip is computed with as many rows beside it as its own depend on, so nothing shows where two meet. The norms need
//! statistics of the whole image: each is measured in a pass of its own over all strips, through the layers before it,
//! whose statistics are known by then. That costs time, several times the layers'.

use super::layers::Norm;
use super::steps::{Statistics, Steps};
use super::{Needs, Size, Work};
use crate::compute::Compute;
use crate::error::GpuError;
use crate::memory::{Layout, Region};
use crate::ops::BF16;
use crate::ops::image::{Bytes, to_bytes};

/// Layers over an image that is too large for them, and how it is cut.
pub(super) struct Strips<'a> {
    pub(super) steps: Steps<'a>,
    /// Of the image that the first step reads.
    pub(super) size: Size,
    /// Rows of it that a strip has, without those beside it; the last may have fewer.
    pub(super) rows: usize,
}

/// Rows of one strip, with those beside it, and its own among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Strip {
    first: usize,
    rows: usize,
    own_first: usize,
    own_rows: usize,
}

impl Strip {
    const fn of(own_first: usize, own_rows: usize, reach: usize, height: usize) -> Self {
        let first = own_first.saturating_sub(reach);
        let last = own_first + own_rows + reach;
        let last = if last < height { last } else { height };
        Self {
            first,
            rows: last - first,
            own_first,
            own_rows,
        }
    }

    /// The first of its own rows and their number, in an image that its rows became.
    const fn own(self, size: Size) -> (usize, usize) {
        let scale = size.height / self.rows;
        (self.own_first * scale, self.own_rows * scale)
    }

    /// Its own rows of such an image, which begins with those beside it.
    fn own_part(self, image: Region, size: Size) -> Result<Region, GpuError> {
        let row = size.width * size.stride() * BF16;
        let (first, rows) = self.own(size);
        let beside = first - self.first * (size.height / self.rows);
        image.part(beside * row, rows * row)
    }
}

/// Memory of the strips.
pub(super) struct StripWork {
    pub(super) work: Work,
    statistics: Vec<Region>,
}

impl<'a> Strips<'a> {
    /// Rows that strips must begin with a multiple of, so that sums of strips are those of the image.
    pub(super) fn unit(steps: &Steps<'_>, size: Size) -> usize {
        let together = steps.norms(size).into_iter().map(|(norm, of)| {
            // Rows of the first image that these rows are made of, at least one.
            let scale = of.height / size.height;
            let rows = norm.rows_together(of);
            rows / gcd(rows, scale)
        });
        together.fold(1, |one, other| one / gcd(one, other) * other)
    }

    fn all(&self) -> impl Iterator<Item = Strip> {
        let (height, reach) = (self.size.height, self.steps.reach());
        let strip = move |own: usize| Strip::of(own, self.rows.min(height - own), reach, height);
        (0..height).step_by(self.rows).map(strip)
    }

    /// The size of a strip as the first step reads it.
    fn strip_size(&self, strip: Strip) -> Size {
        Size {
            height: strip.rows,
            ..self.size
        }
    }

    fn needs(&self) -> Needs {
        let mut needs = Needs::default();
        for strip in self.all() {
            needs.at_least(self.steps.needs(self.strip_size(strip)).0);
        }
        needs
    }

    pub(super) fn lay_out(&self, layout: &mut Layout) -> Result<StripWork, GpuError> {
        let work = self.needs().lay_out(layout)?;
        let norms = self.steps.norms(self.size).into_iter();
        let statistics = norms.map(|(norm, size)| layout.take(norm.needs(size).statistics));
        Ok(StripWork {
            statistics: statistics.collect::<Result<_, _>>()?,
            work,
        })
    }

    /// Writes the pixels of `image`, which the first step reads.
    pub(super) fn run(
        &self,
        compute: &Compute,
        own: &StripWork,
        image: Region,
        bytes: Bytes,
    ) -> Result<(), GpuError> {
        let norms = self.steps.norms(self.size);
        for (number, &(norm, size)) in norms.iter().enumerate() {
            for strip in self.all() {
                let mut measuring = Measuring {
                    compute,
                    known: &own.statistics,
                    number,
                    whole: size,
                    strip,
                };
                self.run_strip(compute, own, image, strip, &mut measuring)?;
            }
            norm.settle(compute, size, own.statistics[number])?;
        }
        for strip in self.all() {
            self.run_strip(compute, own, image, strip, &mut Known(&own.statistics))?;
            let (_, after) = self.steps.needs(self.strip_size(strip));
            let (first, rows) = strip.own(after);
            let from = strip.own_part(own.work.at(self.steps.image()), after)?;
            let pixels = rows * after.width;
            let to = Bytes {
                rgb: bytes.rgb.part(3 * first * after.width, 3 * pixels)?,
                ..bytes
            };
            to_bytes(&compute.gpu, to, from, (pixels, after.stride()))?;
        }
        Ok(())
    }

    fn run_strip(
        &self,
        compute: &Compute,
        own: &StripWork,
        image: Region,
        strip: Strip,
        statistics: &mut dyn Statistics,
    ) -> Result<(), GpuError> {
        let row = self.size.width * self.size.stride() * BF16;
        let part = image.part(strip.first * row, strip.rows * row)?;
        compute.gpu.copy(own.work.x, part, strip.rows * row)?;
        self.steps
            .run(compute, self.strip_size(strip), &own.work, statistics)
    }
}

/// Statistics that earlier passes have measured.
struct Known<'a>(&'a [Region]);

impl Statistics for Known<'_> {
    fn of(
        &mut self,
        number: usize,
        _: &Norm,
        _: Size,
        _: Region,
    ) -> Result<Option<Region>, GpuError> {
        Ok(Some(self.0[number]))
    }
}

/// A pass that ends with the norm whose image it adds a strip's rows of.
struct Measuring<'a> {
    compute: &'a Compute,
    known: &'a [Region],
    number: usize,
    /// The size of the whole image that is measured.
    whole: Size,
    strip: Strip,
}

impl Statistics for Measuring<'_> {
    fn of(
        &mut self,
        number: usize,
        norm: &Norm,
        size: Size,
        x: Region,
    ) -> Result<Option<Region>, GpuError> {
        let statistics = self.known[number];
        if number < self.number {
            return Ok(Some(statistics));
        }
        let (range, own) = (self.strip.own(size), self.strip.own_part(x, size)?);
        norm.add_up(self.compute, self.whole, range, own, statistics)?;
        Ok(None)
    }
}

const fn gcd(one: usize, other: usize) -> usize {
    match other {
        0 => one,
        _ => gcd(other, one % other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strip_has_the_rows_beside_it_that_are_there() {
        let strip = |own_first, own_rows| Strip::of(own_first, own_rows, 5, 100);
        assert_eq!(strip(0, 40).first, 0);
        assert_eq!(strip(0, 40).rows, 45);
        assert_eq!((strip(40, 40).first, strip(40, 40).rows), (35, 50));
        assert_eq!((strip(80, 20).first, strip(80, 20).rows), (75, 25));
    }

    #[test]
    fn its_own_rows_are_found_in_what_its_rows_became() {
        let size = Size {
            height: 100,
            width: 1,
            channels: 8,
        };
        let strip = Strip::of(40, 40, 5, 100);
        assert_eq!(strip.own(size), (80, 80));
        let image = Layout::measure().take(size.bytes()).unwrap();
        let own = strip.own_part(image, size).unwrap();
        assert_eq!(own, image.part(10 * 16, 80 * 16).unwrap());
    }
}
