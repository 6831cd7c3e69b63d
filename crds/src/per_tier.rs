//! Something that each tier has.

use crate::deployment::ZImageDeploymentSpec;
use crate::status::{TierStatus, ZImageDeploymentStatus};
use crate::tier::{Tier, TierSpec};
use crate::traffic::Weights;
use std::ops::{Index, IndexMut};

/// One value for each tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PerTier<T> {
    /// The primary tier's.
    pub primary: T,
    /// The fallback tier's.
    pub fallback: T,
}

impl<T> PerTier<T> {
    /// What `value` gives for each tier, in their order.
    pub fn from_fn(mut value: impl FnMut(Tier) -> T) -> Self {
        Self {
            primary: value(Tier::Primary),
            fallback: value(Tier::Fallback),
        }
    }

    /// Each tier with its value, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (Tier, &T)> {
        Tier::ALL.into_iter().map(|tier| (tier, &self[tier]))
    }

    /// References to the values.
    pub const fn as_ref(&self) -> PerTier<&T> {
        PerTier {
            primary: &self.primary,
            fallback: &self.fallback,
        }
    }

    /// What `change` makes of each value, in their order.
    pub fn map<U>(self, mut change: impl FnMut(Tier, T) -> U) -> PerTier<U> {
        PerTier {
            primary: change(Tier::Primary, self.primary),
            fallback: change(Tier::Fallback, self.fallback),
        }
    }
}

impl<T> Index<Tier> for PerTier<T> {
    type Output = T;

    fn index(&self, tier: Tier) -> &T {
        match tier {
            Tier::Primary => &self.primary,
            Tier::Fallback => &self.fallback,
        }
    }
}

impl<T> IndexMut<Tier> for PerTier<T> {
    fn index_mut(&mut self, tier: Tier) -> &mut T {
        match tier {
            Tier::Primary => &mut self.primary,
            Tier::Fallback => &mut self.fallback,
        }
    }
}

impl<T> IntoIterator for PerTier<T> {
    type Item = (Tier, T);
    type IntoIter = std::array::IntoIter<(Tier, T), 2>;

    fn into_iter(self) -> Self::IntoIter {
        [
            (Tier::Primary, self.primary),
            (Tier::Fallback, self.fallback),
        ]
        .into_iter()
    }
}

impl From<Weights> for PerTier<i32> {
    fn from(weights: Weights) -> Self {
        Self {
            primary: weights.primary,
            fallback: weights.fallback,
        }
    }
}

impl ZImageDeploymentSpec {
    /// The tiers that the spec asks for.
    pub const fn tiers(&self) -> PerTier<Option<&TierSpec>> {
        PerTier {
            primary: Some(&self.primary),
            fallback: self.fallback.as_ref(),
        }
    }
}

impl ZImageDeploymentStatus {
    /// What is told of the tiers.
    pub const fn tiers(&self) -> PerTier<Option<&TierStatus>> {
        PerTier {
            primary: self.primary.as_ref(),
            fallback: self.fallback.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_finds_its_own_value() {
        let names = PerTier::from_fn(Tier::as_str);
        let mut lengths = names.map(|tier, name| (tier, name.len()));
        assert_eq!(lengths[Tier::Primary], (Tier::Primary, 7));
        lengths[Tier::Fallback].1 += 1;
        let each: Vec<_> = lengths.iter().map(|(tier, value)| (tier, *value)).collect();
        assert_eq!(
            each,
            [
                (Tier::Primary, (Tier::Primary, 7)),
                (Tier::Fallback, (Tier::Fallback, 9))
            ]
        );
    }
}
