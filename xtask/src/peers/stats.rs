//! Medians, and medians of what was measured side by side.

/// The middle one; of two, what is between them. `None` of nothing.
pub(super) fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        length if length % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// The median of the ratios of each round: what the machine did in a round, it did to both.
pub(super) fn paired_ratio(mine: &[f64], theirs: &[f64]) -> Option<f64> {
    median(mine.iter().zip(theirs).filter(|(_, theirs)| **theirs > 0.0).map(|(mine, theirs)| mine / theirs))
}

/// Numbers that are different in every run; which ones does not matter, so that the seed is not kept.
pub(super) struct Shuffler(u64);

impl Shuffler {
    pub(super) fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self(RandomState::new().hash_one(0) | 1)
    }

    /// Puts things into another order.
    pub(super) fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            // xorshift64
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            things.swap(last, (self.0 % (last as u64 + 1)) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(median([]), None);
        assert_eq!(median([3.0]), Some(3.0));
        assert_eq!(median([9.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median([9.0, 1.0, 2.0, 4.0]), Some(3.0));
    }

    #[test]
    fn rounds_are_compared_with_themselves() {
        // The machine was twice as slow in the second round and the third: a ratio of medians would see that.
        let (mine, theirs) = ([10.0, 20.0, 22.0], [20.0, 40.0, 40.0]);
        assert_eq!(paired_ratio(&mine, &theirs), Some(0.5));
        assert_eq!(paired_ratio(&mine, &[0.0, 0.0, 0.0]), None);
        assert_eq!(paired_ratio(&[], &theirs), None);
    }

    #[test]
    fn a_shuffled_list_is_the_same_list_in_another_order() {
        let mut shuffler = Shuffler(0x9e37_79b9_7f4a_7c15);
        let mut orders = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let mut things = [1, 2, 3, 4];
            shuffler.shuffle(&mut things);
            let mut sorted = things;
            sorted.sort_unstable();
            assert_eq!(sorted, [1, 2, 3, 4]);
            orders.insert(things);
        }
        assert_eq!(orders.len(), 24, "every order is possible");
    }
}
