//! The image files of a request: in which order they are read, and how large each may be.

use crate::limits::{InvalidRequest, Limits};
use crate::pixels::Pixels;
use crate::request::{Control, ImageRequest, InitImage, Noise};
use std::sync::Arc;

/// An image file of a request, as whoever reads it must know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// Name of the request's field.
    pub field: &'static str,
    size: Size,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    /// Width and height of the new image: nothing is resized.
    Exactly(u32, u32),
    /// Pixels.
    AtMost(u64),
}

impl Input {
    /// A file that must have a width and a height in pixels.
    pub const fn of_size(field: &'static str, (width, height): (u32, u32)) -> Self {
        Self {
            field,
            size: Size::Exactly(width, height),
        }
    }

    /// A file that may have so many pixels.
    pub const fn within(field: &'static str, pixels: u64) -> Self {
        Self {
            field,
            size: Size::AtMost(pixels),
        }
    }

    /// Checks a width and a height in pixels, which are known before the file is decoded.
    ///
    /// # Errors
    /// Names the field, and the size that it must have.
    pub fn check(&self, width: u32, height: u32) -> Result<(), InvalidRequest> {
        let field = self.field;
        let message = match self.size {
            Size::Exactly(wide, high) if (width, height) != (wide, high) => format!(
                "{field} has {width}x{height} pixels; the size asked for, {wide}x{high}, is needed"
            ),
            Size::AtMost(most) if u64::from(width) * u64::from(height) > most => format!(
                "{field} has an entry of {width}x{height} pixels: that is too many, shrink it"
            ),
            Size::Exactly(..) | Size::AtMost(_) => return Ok(()),
        };
        Err(InvalidRequest::new(field, message))
    }
}

impl<I> ImageRequest<I> {
    /// Reads the image files one by one. `read` checks a file's size with [`Input::check`].
    ///
    /// # Errors
    /// That of the first file that cannot be read.
    pub fn read<E>(
        self,
        limits: &Limits,
        mut read: impl FnMut(I, Input) -> Result<Arc<Pixels>, E>,
    ) -> Result<ImageRequest, E> {
        let size = (self.width, self.height);
        let mut sized = |field, file| read(file, Input::of_size(field, size));
        let init = self.init.map(|init| {
            Ok(InitImage {
                pixels: sized("image", init.pixels)?,
                strength: init.strength,
                mask: init.mask.map(|mask| sized("mask", mask)).transpose()?,
            })
        });
        let init = init.transpose()?;
        let control = self.control.map(|control| {
            Ok(Control {
                pixels: sized("control_image", control.pixels)?,
                conditioning_scale: control.conditioning_scale,
            })
        });
        let control = control.transpose()?;
        let mut left = limits.max_reference_pixels;
        let references = self.references.into_iter().map(|file| {
            let pixels = read(file, Input::within("references", left))?;
            left = left.saturating_sub(u64::from(pixels.width()) * u64::from(pixels.height()));
            Ok(pixels)
        });
        Ok(ImageRequest {
            references: references.collect::<Result<_, E>>()?,
            init,
            control,
            prompt: self.prompt,
            negative_prompt: self.negative_prompt,
            width: self.width,
            height: self.height,
            num_inference_steps: self.num_inference_steps,
            guidance_scale: self.guidance_scale,
            cfg_normalization: self.cfg_normalization,
            cfg_truncation: self.cfg_truncation,
            noise: self.noise,
        })
    }
}

impl ImageRequest {
    /// One request for each image that shares this one's noise.
    pub fn images(&self) -> Vec<Self> {
        let image = |index| Self {
            noise: Noise {
                index,
                ..self.noise
            },
            ..self.clone()
        };
        (0..self.noise.count).map(image).collect()
    }

    /// Checks the sizes of the images that came with the request, condition images left aside.
    pub(crate) fn check_sizes(&self) -> Result<(), InvalidRequest> {
        let init = self.init.as_ref();
        let mask = init.and_then(|init| init.mask.as_ref());
        let control = self.control.as_ref().map(|control| &control.pixels);
        for (field, pixels) in [
            ("image", init.map(|init| &init.pixels)),
            ("mask", mask),
            ("control_image", control),
        ] {
            if let Some(pixels) = pixels {
                Input::of_size(field, (self.width, self.height))
                    .check(pixels.width(), pixels.height())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::Parameters;
    use crate::variant::Variant;

    /// Widths and heights stand for image files.
    type Sides = (u32, u32);

    fn grey((width, height): Sides) -> Arc<Pixels> {
        Arc::new(Pixels::new(width, height, vec![9; (width * height * 3) as usize]).unwrap())
    }

    /// Reads the files of a request of 64x80 pixels. Gives the fields in order.
    fn read(parameters: Parameters<Sides>) -> Result<Vec<&'static str>, InvalidRequest> {
        let limits = Limits {
            max_reference_pixels: 100,
            ..Limits::default()
        };
        let sized = Parameters {
            width: Some(64),
            height: Some(80),
            ..parameters
        };
        let request = sized.resolve(Variant::Turbo.defaults(), &limits, 0)?;
        let mut fields = Vec::new();
        request.read(&limits, |file, input| {
            input.check(file.0, file.1)?;
            fields.push(input.field);
            Ok::<_, InvalidRequest>(grey(file))
        })?;
        Ok(fields)
    }

    fn plain() -> Parameters<Sides> {
        Parameters::new("a fox")
    }

    #[test]
    fn files_are_read_in_one_order() {
        let all = Parameters {
            image: Some((64, 80)),
            mask: Some((64, 80)),
            control_image: Some((64, 80)),
            references: vec![(5, 3), (3, 5)],
            ..plain()
        };
        let order = ["image", "mask", "control_image", "references", "references"];
        assert_eq!(read(all).unwrap(), order);
        assert!(read(plain()).unwrap().is_empty());
    }

    #[test]
    fn image_mask_and_control_image_have_the_size_of_the_new_image() {
        let right = Some((64, 80));
        let wrong = Some((80, 64));
        for (image, mask, control_image, field) in [
            (wrong, right, right, "image"),
            (right, wrong, right, "mask"),
            (right, right, wrong, "control_image"),
        ] {
            let refused = read(Parameters {
                image,
                mask,
                control_image,
                ..plain()
            });
            let problem = "has 80x64 pixels; the size asked for, 64x80, is needed";
            let expected = InvalidRequest::new(field, format!("{field} {problem}"));
            assert_eq!(refused, Err(expected));
        }
    }

    #[test]
    fn condition_images_share_the_pixels_that_one_request_may_have() {
        let references = |references| {
            read(Parameters {
                references,
                ..plain()
            })
        };
        assert!(references(vec![(8, 8)]).is_ok());
        let refused = references(vec![(8, 8), (8, 8)]).unwrap_err();
        assert!(
            refused.message.contains("8x8 pixels: that is too many"),
            "{refused}"
        );
    }

    #[test]
    fn images_of_a_request_differ_in_their_place_in_the_noise_alone() {
        let one = ImageRequest {
            noise: Noise {
                seed: 4,
                index: 0,
                count: 3,
            },
            ..ImageRequest::plain("a fox", (64, 64))
        };
        let noises = one.images().into_iter().map(|image| image.noise);
        let expected = [0, 1, 2].map(|index| Noise { index, ..one.noise });
        assert!(noises.eq(expected));
    }
}
