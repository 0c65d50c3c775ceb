//! Exact floating-point sums and integer sort keys for numbers, so that results do not depend on the order of addition.
//!
//! The last digits of a floating-point sum depend on the order of its terms, and the distribution of answers over ranks
//! differs from run to run. An [`ExactSum`] keeps all digits and is rounded once, at the end (J. R. Shewchuk's
//! expansions, as in Python's `math.fsum`). With exact sums the variance can be computed from a sum and a sum of
//! squares; with rounded sums that formula would cancel catastrophically.

use serde::{Deserialize, Serialize};

use crate::domain::Merge;

/// Numbers closer to 0 count as 0, since their squares and the rounding errors of these would underflow.
pub(super) const MIN_MAGNITUDE: f64 = 1e-100;

/// Maps a number to an integer of the same order; both zeros have the same key.
pub(super) fn order_key(number: f64) -> i64 {
    let bits = (number + 0.0).to_bits().cast_signed();
    if bits < 0 { bits ^ i64::MAX } else { bits }
}

/// Returns the number with this [`order_key`].
pub(super) fn number_from_key(order: i64) -> f64 {
    f64::from_bits(if order < 0 { order ^ i64::MAX } else { order }.cast_unsigned())
}

/// An unrounded sum, as a list of terms whose digits do not overlap, smallest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct ExactSum(Vec<f64>);

impl ExactSum {
    pub(super) fn add_number(&mut self, number: f64) {
        let (mut large, mut kept) = (number, 0);
        for at in 0..self.0.len() {
            let (sum, lost) = two_sum(large, self.0[at]);
            if lost != 0.0 {
                self.0[kept] = lost;
                kept += 1;
            }
            large = sum;
        }
        self.0.truncate(kept);
        if large != 0.0 {
            self.0.push(large);
        }
    }

    /// Adds the unrounded product of two numbers.
    pub(super) fn add_product(&mut self, one: f64, other: f64) {
        let product = one * other;
        self.add_number(one.mul_add(other, -product)); // the rounding error of the product
        self.add_number(product);
    }

    fn square_exactly(&self) -> Self {
        let mut squared = Self::default();
        for one in &self.0 {
            self.0.iter().for_each(|other| squared.add_product(*one, *other));
        }
        squared
    }

    /// Rounds to the nearest floating-point number, ties to even.
    pub(super) fn to_f64(&self) -> f64 {
        let mut parts = self.0.iter().rev().copied();
        let Some(mut large) = parts.next() else { return 0.0 };
        let mut lost = 0.0;
        for part in parts.by_ref() {
            (large, lost) = two_sum(large, part);
            if lost != 0.0 {
                break;
            }
        }
        // Half-way between two numbers the next term decides; without one the even neighbour, already in `large`,
        // stays.
        let next = parts.next().unwrap_or_default();
        if (lost > 0.0 && next > 0.0) || (lost < 0.0 && next < 0.0) {
            let rounded_up = large + 2.0 * lost;
            if rounded_up - large == 2.0 * lost {
                return rounded_up;
            }
        }
        large
    }
}

impl Merge for ExactSum {
    fn merge(&mut self, other: Self) {
        other.0.into_iter().for_each(|part| self.add_number(part));
    }
}

/// Returns the rounded sum and its rounding error.
fn two_sum(one: f64, other: f64) -> (f64, f64) {
    let (large, small) = if one.abs() < other.abs() { (other, one) } else { (one, other) };
    let sum = large + small;
    (sum, small - (sum - large))
}

/// Returns the sample variance of `count` numbers from their sum and sum of squares, rounded once before the divisions.
pub(super) fn sample_variance(count: u64, total: &ExactSum, squares: &ExactSum) -> f64 {
    if count < 2 {
        return 0.0;
    }
    let mut times_count = ExactSum::default();
    squares.0.iter().for_each(|part| times_count.add_product(*part, count as f64));
    total.square_exactly().0.iter().for_each(|part| times_count.add_number(-part));
    times_count.to_f64() / count as f64 / (count - 1) as f64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn exact_sum(numbers: &[f64]) -> ExactSum {
        let mut sum = ExactSum::default();
        numbers.iter().for_each(|number| sum.add_number(*number));
        sum
    }

    #[test]
    fn sums_are_rounded_once() {
        assert_eq!(exact_sum(&[1e100, 1.0, -1e100]).to_f64(), 1.0);
        assert_eq!(exact_sum(&[0.1; 10]).to_f64(), 1.0);
        assert_eq!(exact_sum(&[]).to_f64(), 0.0);
        // Slightly more than half-way rounds up.
        assert_eq!(exact_sum(&[1.0, 2f64.powi(-53), 2f64.powi(-120)]).to_f64(), 1.0 + f64::EPSILON);
        assert_eq!(exact_sum(&[1.0, 2f64.powi(-53)]).to_f64(), 1.0);
    }

    #[test]
    fn a_small_spread_far_from_zero_is_not_lost() {
        let numbers = [1e9 + 4.0, 1e9 + 7.0, 1e9 + 13.0, 1e9 + 16.0];
        let mut squares = ExactSum::default();
        numbers.iter().for_each(|it| squares.add_product(*it, *it));
        assert_eq!(sample_variance(4, &exact_sum(&numbers), &squares), 30.0);
    }

    proptest! {
        #[test]
        fn order_keys_sort_like_numbers(a in -1e100..1e100f64, b in prop_oneof![-1e100..1e100f64, -2.0..2.0f64]) {
            prop_assert_eq!(order_key(a).cmp(&order_key(b)), a.partial_cmp(&b).expect("finite"));
            prop_assert_eq!(number_from_key(order_key(a)), a);
        }

        #[test]
        fn integers_are_summed_exactly_in_any_order(mut numbers in prop::collection::vec(-1_000_000_000_000i64..1_000_000_000_000, 0..200), turn in 0usize..200) {
            let sum = numbers.iter().sum::<i64>() as f64;
            let turn = turn.min(numbers.len());
            numbers.rotate_left(turn);
            let floats: Vec<f64> = numbers.iter().map(|it| *it as f64).collect();
            prop_assert_eq!(exact_sum(&floats).to_f64(), sum);
        }

        #[test]
        fn no_order_and_no_grouping_changes_a_sum(numbers in prop::collection::vec(prop_oneof![-1e99..1e99f64, -1.0..1.0f64, -1e-90..1e-90f64], 0..60), cut in 0usize..60) {
            let cut = cut.min(numbers.len());
            let (one, other) = numbers.split_at(cut);
            let mut turned = exact_sum(other);
            turned.merge(exact_sum(one));
            prop_assert_eq!(turned.to_f64().to_bits(), exact_sum(&numbers).to_f64().to_bits());
        }
    }
}
