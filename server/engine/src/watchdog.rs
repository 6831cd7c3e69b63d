//! Finds a device that makes no progress: a driver call that never returns says nothing by itself.

use crate::progress::Doing;
use crate::queue::Queue;
use crate::worker::Devices;
use std::fmt;
use std::sync::{Arc, Weak};
use std::time::Duration;
use zimage_core::pace::Pace;

/// A call may take this many times what it usually takes.
const TIMES: u32 = 20;
/// A call of a kind that was never measured may take this many times the patience: nothing is known of it.
const FIRST: u32 = 10;
/// The device is given up when a call takes this many times what it may take.
const GIVEN_UP: u32 = 3;

/// A device without progress while it should make some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stuck {
    /// `None`: it takes no image although one waits.
    doing: Option<(&'static str, (u32, u32))>,
    age: Duration,
    /// It will not make any more.
    pub(crate) given_up: bool,
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.age.as_secs();
        match self.doing {
            Some((phase, (width, height))) => {
                write!(
                    f,
                    "device stuck in {phase} of {width}x{height} for {seconds} s"
                )
            }
            None => write!(f, "device stuck: it has taken no image for {seconds} s"),
        }
    }
}

/// What a device's state means. `waits`: how long the oldest image has waited, when one waits. `patience`: what any call
/// may take.
fn judge(
    doing: Doing,
    waits: Option<Duration>,
    pace: &Pace,
    patience: Duration,
) -> Result<Duration, Stuck> {
    let (age, most) = match (doing.call, waits) {
        (Some(call), _) => {
            let usual = pace.typical(call.phase, call.size);
            let most = usual.map_or(FIRST * patience, |time| {
                (TIMES * time).saturating_mul(call.forwards.max(1))
            });
            (doing.age, most.max(patience))
        }
        (None, Some(waits)) => (doing.age.min(waits), patience),
        (None, None) => return Ok(Duration::ZERO),
    };
    if age <= most {
        return Ok(age);
    }
    Err(Stuck {
        doing: doing.call.map(|call| (call.phase.name(), call.size)),
        age,
        given_up: age > most.saturating_mul(GIVEN_UP),
    })
}

/// The device that is stuck worst; otherwise the longest time without progress.
pub(crate) fn look(
    queue: &Queue,
    devices: &Devices,
    patience: Duration,
) -> Result<Duration, Stuck> {
    let state = queue.lock();
    let waits = state.admission.oldest().map(|job| job.submitted.elapsed());
    let pace = state.admission.pace();
    let judged = (devices.iter()).map(|device| judge(device.doing(), waits, pace, patience));
    // The worst: one that is given up hides behind no other.
    let rank = |judged: &Result<Duration, Stuck>| match judged {
        Ok(age) => (0, *age),
        Err(stuck) => (1 + i32::from(stuck.given_up), stuck.age),
    };
    judged.max_by_key(rank).unwrap_or(Ok(Duration::ZERO))
}

/// Looks at the devices until the queue is gone or failed.
pub(crate) fn run(queue: &Weak<Queue>, devices: &Devices, patience: Duration) {
    let interval = (patience / 10).min(Duration::from_secs(1));
    let mut told = false;
    loop {
        std::thread::sleep(interval);
        let Some(queue) = queue.upgrade() else { return };
        if queue.failed().is_cancelled() {
            return;
        }
        let looked = look(&queue, devices, patience);
        show(&queue, &looked);
        match &looked {
            Err(stuck) if stuck.given_up => queue.fail(&stuck.to_string(), None),
            Err(stuck) if !told => tracing::warn!("{stuck}: not ready"),
            Ok(_) if told => tracing::info!("the device makes progress again"),
            _ => {}
        }
        told = looked.is_err();
    }
}

fn show(queue: &Arc<Queue>, looked: &Result<Duration, Stuck>) {
    let age = looked.as_ref().map_or_else(|stuck| stuck.age, |age| *age);
    queue.metrics.last_progress.set(age.as_secs_f64());
    let wait = queue.lock().admission.wait().unwrap_or_default();
    queue.metrics.queue_wait.set(wait.as_secs_f64());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Call;
    use zimage_core::pace::Phase;

    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);

    fn in_step(size: (u32, u32), age: Duration) -> Doing {
        let call = Some(Call {
            phase: Phase::Step,
            size,
            forwards: 1,
        });
        Doing { call, age }
    }

    fn between_calls(age: Duration) -> Doing {
        Doing { call: None, age }
    }

    /// A step of 64x64 takes `time`.
    fn pace(time: Duration) -> Pace {
        let mut pace = Pace::default();
        pace.record(Phase::Step, (64, 64), 1, time);
        pace
    }

    fn verdict(doing: Doing, waits: Option<Duration>, pace: &Pace) -> &'static str {
        match judge(doing, waits, pace, MINUTE) {
            Ok(_) => "well",
            Err(stuck) if stuck.given_up => "given up",
            Err(_) => "stuck",
        }
    }

    #[test]
    fn a_quick_device_is_stuck_after_a_minute_and_given_up_after_three() {
        let pace = pace(SECOND / 10);
        for (age, expected) in [
            (59, "well"),
            (61, "stuck"),
            (179, "stuck"),
            (181, "given up"),
        ] {
            let doing = in_step((64, 64), age * SECOND);
            assert_eq!(verdict(doing, None, &pace), expected, "{age} s");
        }
    }

    #[test]
    fn a_slow_device_has_twenty_times_what_a_step_takes() {
        let pace = pace(MINUTE);
        for (age, expected) in [(19, "well"), (21, "stuck"), (61, "given up")] {
            let doing = in_step((64, 64), age * MINUTE);
            assert_eq!(verdict(doing, None, &pace), expected, "{age} min");
        }
        let larger = in_step((128, 128), 79 * MINUTE);
        assert_eq!(verdict(larger, None, &pace), "well");
    }

    #[test]
    fn a_step_with_guidance_has_twice_the_time() {
        let mut doing = in_step((64, 64), 39 * MINUTE);
        assert_eq!(verdict(doing, None, &pace(MINUTE)), "stuck");
        doing.call = doing.call.map(|call| Call {
            forwards: 2,
            ..call
        });
        assert_eq!(verdict(doing, None, &pace(MINUTE)), "well");
    }

    #[test]
    fn the_first_call_of_all_has_ten_minutes() {
        let nothing = Pace::default();
        for (age, expected) in [(9, "well"), (11, "stuck"), (31, "given up")] {
            let doing = in_step((64, 64), age * MINUTE);
            assert_eq!(verdict(doing, None, &nothing), expected, "{age} min");
        }
    }

    #[test]
    fn a_device_without_work_is_well_however_long() {
        assert_eq!(
            verdict(between_calls(1000 * MINUTE), None, &pace(SECOND)),
            "well"
        );
    }

    #[test]
    fn a_device_that_takes_no_image_is_stuck() {
        let idle = between_calls(1000 * MINUTE);
        let pace = pace(SECOND);
        for (waits, expected) in [(59, "well"), (61, "stuck"), (181, "given up")] {
            assert_eq!(
                verdict(idle, Some(waits * SECOND), &pace),
                expected,
                "{waits} s"
            );
        }
        let busy = between_calls(SECOND);
        assert_eq!(
            verdict(busy, Some(10 * MINUTE), &pace),
            "well",
            "a long queue alone"
        );
    }

    #[test]
    fn what_is_said_names_the_call_and_the_size() {
        let stuck = judge(
            in_step((1024, 768), 2 * MINUTE),
            None,
            &pace(SECOND / 1000),
            MINUTE,
        );
        let text = stuck.unwrap_err().to_string();
        assert_eq!(text, "device stuck in step of 1024x768 for 120 s");
    }
}
