//! Numbers out of numbers: median, ends, nothing else.

/// The middle one; of an even count the mean of the two in the middle. None of nothing.
pub fn median(numbers: &[f64]) -> Option<f64> {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = *sorted.get(sorted.len() / 2)?;
    let lower = if sorted.len().is_multiple_of(2) { sorted[sorted.len() / 2 - 1] } else { upper };
    Some(f64::midpoint(lower, upper))
}

/// The least and the most.
pub fn ends(numbers: &[f64]) -> Option<(f64, f64)> {
    let least = numbers.iter().copied().min_by(f64::total_cmp)?;
    Some((least, numbers.iter().copied().max_by(f64::total_cmp)?))
}

/// How fast a counter grew between two points of time: samples are (seconds, counter), sorted; at
/// each end the sample nearest to it counts. None where they are the same one.
pub fn rate(samples: &[(f64, f64)], from: f64, to: f64) -> Option<f64> {
    let nearest = |at: f64| {
        samples.iter().min_by(|a, b| (a.0 - at).abs().total_cmp(&(b.0 - at).abs())).copied()
    };
    let ((t0, c0), (t1, c1)) = (nearest(from)?, nearest(to)?);
    (t1 > t0).then(|| (c1 - c0) / (t1 - t0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_odd_even_one_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
        assert_eq!(ends(&[3.0, 1.0, 2.0]), Some((1.0, 3.0)));
        assert_eq!(ends(&[]), None);
    }

    #[test]
    fn a_rate_is_taken_between_the_samples_nearest_to_its_ends() {
        let samples = [(0.1, 0.0), (1.1, 50.0), (2.1, 150.0), (3.1, 250.0)];
        assert_eq!(rate(&samples, 1.0, 3.0), Some(100.0));
        assert_eq!(rate(&samples, 0.9, 1.2), None);
        assert_eq!(rate(&[], 0.0, 1.0), None);
    }
}
