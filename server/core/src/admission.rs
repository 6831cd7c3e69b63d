//! Which requests are taken, in which order they begin, and how long that will take.

use crate::pace::{Pace, Work};
use std::collections::BTreeMap;
use std::time::Duration;

/// How much is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Images that have a place: those that run, those that wait and those whose request is still being read.
    pub places: usize,
    /// Devices that share the work, at least one.
    pub devices: u32,
    /// Time that a request may have to wait for a device, as far as that is known. `None`: any.
    pub wait: Option<Duration>,
}

/// Why nothing is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Not now.
    Full {
        /// When there may be room, as far as that is known.
        retry_after: Option<Duration>,
        /// Whether a request of one image would be refused, too.
        for_all: bool,
    },
    /// More images than there are places.
    TooMany {
        /// Images of the request.
        asked: usize,
    },
}

/// An image that has a place, from its submission to its end. No two images ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(u64);

/// The images that were taken. `J` is what a device needs for one.
///
/// ```text
/// reserve ─▶ submit ─▶ take ─▶ end
///    └▶ give_back  └─▶ end (its client went away)
/// ```
#[derive(Clone, Debug)]
pub struct Admission<J> {
    bounds: Bounds,
    pace: Pace,
    /// Places of images that are not submitted yet.
    reserved: usize,
    /// In the order of submission, which is that of the ids.
    waiting: BTreeMap<Id, J>,
    /// Of every image that waits or runs.
    work: BTreeMap<Id, Work>,
    next: u64,
}

impl<J> Admission<J> {
    /// All places are free.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            pace: Pace::default(),
            reserved: 0,
            waiting: BTreeMap::new(),
            work: BTreeMap::new(),
            next: 0,
        }
    }

    /// Whether a request of `images` images would be taken now.
    ///
    /// # Errors
    /// Why it would not.
    pub fn room(&self, images: usize) -> Result<(), Refusal> {
        if images > self.bounds.places {
            return Err(Refusal::TooMany { asked: images });
        }
        self.wait_is_bearable()?;
        if self.used() + images > self.bounds.places {
            return Err(Refusal::Full {
                retry_after: self.next_end(),
                for_all: self.used() >= self.bounds.places,
            });
        }
        Ok(())
    }

    /// Keeps places for a request that is still being read.
    ///
    /// # Errors
    /// As [`Admission::room`]; nothing is kept then.
    pub fn reserve(&mut self, images: usize) -> Result<(), Refusal> {
        self.room(images)?;
        self.reserved += images;
        Ok(())
    }

    /// Gives reserved places back.
    pub fn give_back(&mut self, images: usize) {
        self.reserved = self.reserved.saturating_sub(images);
    }

    /// Lets images wait in places that were reserved for them. What each costs is known now.
    ///
    /// # Errors
    /// [`Refusal::Full`] when too much work is ahead of them. The places stay reserved then.
    pub fn submit(&mut self, jobs: Vec<(Work, J)>) -> Result<Vec<Id>, Refusal> {
        self.wait_is_bearable()?;
        self.give_back(jobs.len());
        let taken = jobs.into_iter().map(|(work, job)| {
            let id = Id(self.next);
            self.next += 1;
            self.work.insert(id, work);
            self.waiting.insert(id, job);
            id
        });
        Ok(taken.collect())
    }

    /// The image that has waited longest, for a device to begin.
    pub fn take(&mut self) -> Option<(Id, J)> {
        self.waiting.pop_first()
    }

    /// An image has begun and has so many steps left. Unknown ids are ignored: the client may have gone away.
    pub fn has_left(&mut self, id: Id, steps: u32) {
        if let Some(work) = self.work.get_mut(&id) {
            (work.steps, work.begun) = (steps, true);
        }
    }

    /// Frees the image's place, once: `None` when it has none any more. `Some(Some(job))`: it had not begun.
    pub fn end(&mut self, id: Id) -> Option<Option<J>> {
        self.work.remove(&id)?;
        Some(self.waiting.remove(&id))
    }

    /// Ends every image.
    pub fn end_all(&mut self) -> impl Iterator<Item = J> {
        self.work.clear();
        std::mem::take(&mut self.waiting).into_values()
    }

    /// Whether the image still has its place.
    pub fn holds(&self, id: Id) -> bool {
        self.work.contains_key(&id)
    }

    /// Images that wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What has waited longest.
    pub fn oldest(&self) -> Option<&J> {
        self.waiting.first_key_value().map(|(_, job)| job)
    }

    /// Places that are not free.
    pub fn used(&self) -> usize {
        self.reserved + self.work.len()
    }

    /// What the devices took for their last calls.
    pub const fn pace(&self) -> &Pace {
        &self.pace
    }

    /// The same, to record a call.
    pub const fn pace_mut(&mut self) -> &mut Pace {
        &mut self.pace
    }

    /// The time until a device is free for a new image. `None`: no step was measured.
    pub fn wait(&self) -> Option<Duration> {
        let mut all = self.work.values().map(|work| self.pace.estimate(work));
        let all = all.try_fold(Duration::ZERO, |sum, time| Some(sum.saturating_add(time?)))?;
        Some(all / self.bounds.devices.max(1))
    }

    /// The time until all of these images would be made. `None`: no step was measured.
    pub fn estimate(&self, images: &[Work]) -> Option<Duration> {
        let own = images.iter().map(|work| self.pace.estimate(work));
        let own = own.collect::<Option<Vec<_>>>()?;
        let longest = own.iter().copied().max().unwrap_or_default();
        let shared = own.into_iter().sum::<Duration>() / self.bounds.devices.max(1);
        Some(self.wait()?.saturating_add(shared.max(longest)))
    }

    /// The time until a place is free.
    fn next_end(&self) -> Option<Duration> {
        let running = self.work.values().filter(|work| work.begun);
        running.filter_map(|work| self.pace.estimate(work)).min()
    }

    fn wait_is_bearable(&self) -> Result<(), Refusal> {
        match (self.wait(), self.bounds.wait) {
            (Some(wait), Some(most)) if wait > most => Err(Refusal::Full {
                retry_after: Some(wait - most),
                for_all: true,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
