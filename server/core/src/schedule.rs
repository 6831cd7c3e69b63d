//! The noise levels of the steps.

/// `FlowMatchEulerDiscreteScheduler` with the sigmas that `ZImagePipeline` gives it.
#[derive(Clone, Debug, PartialEq)]
pub struct NoiseSchedule {
    /// One more than there are steps; the last is 0.
    sigmas: Vec<f32>,
    train_timesteps: f32,
}

impl NoiseSchedule {
    /// `shift` and `num_train_timesteps` of the scheduler's configuration; at least one step.
    pub fn new(shift: f64, num_train_timesteps: u32, steps: u32) -> Self {
        let shift = shift as f32;
        let shifted = linspace(steps).map(|sigma| shift * sigma / (1.0 + (shift - 1.0) * sigma));
        Self {
            sigmas: shifted.chain([0.0]).collect(),
            train_timesteps: num_train_timesteps as f32,
        }
    }

    /// Steps of the schedule.
    pub fn steps(&self) -> usize {
        self.sigmas.len() - 1
    }

    /// The share of noise before a step; 0 behind the last.
    pub fn sigma(&self, step: usize) -> f32 {
        self.sigmas[step]
    }

    /// The model's time at a step: 0 is noise, 1 the image.
    pub fn time(&self, step: usize) -> f32 {
        (1000.0 - self.sigmas[step] * self.train_timesteps) / 1000.0
    }

    /// By how much the noise changes in a step: negative.
    pub fn delta(&self, step: usize) -> f32 {
        self.sigmas[step + 1] - self.sigmas[step]
    }
}

/// `torch.linspace(1, 1 / steps, steps)`, which counts from both ends.
fn linspace(steps: u32) -> impl Iterator<Item = f32> {
    let last = (1.0 / f64::from(steps)) as f32;
    let stride = (last - 1.0) / steps.saturating_sub(1).max(1) as f32;
    (0..steps).map(move |i| {
        if i < steps / 2 {
            1.0 + stride * i as f32
        } else {
            last - stride * (steps - 1 - i) as f32
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(steps: u32) -> NoiseSchedule {
        NoiseSchedule::new(3.0, 1000, steps)
    }

    #[test]
    fn eight_steps_are_turbos_published_sigmas() {
        let expected = [
            1.0,
            0.954_545_4,
            0.9,
            0.833_333_3,
            0.75,
            0.642_857_1,
            0.5,
            0.3,
            0.0,
        ];
        for (sigma, expected) in schedule(8).sigmas.iter().zip(expected) {
            assert!((sigma - expected).abs() < 1e-6, "{sigma} {expected}");
        }
    }

    #[test]
    fn one_step_goes_from_noise_to_the_image() {
        let schedule = schedule(1);
        assert_eq!(
            (schedule.steps(), schedule.time(0), schedule.delta(0)),
            (1, 0.0, -1.0)
        );
    }

    #[test]
    fn steps_add_up_to_the_whole_way() {
        let schedule = schedule(50);
        let whole: f32 = (0..50).map(|step| schedule.delta(step)).sum();
        assert!((whole + 1.0).abs() < 1e-6);
    }
}
