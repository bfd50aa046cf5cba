//! Random numbers that are the same on every machine, in every build, on any number of threads.
//!
//! Each stream is named by what it is for (seed, purpose, index), so drawing more from one moves no other. Only integers
//! and IEEE additions, multiplications and divisions are used for data: no `ln` or `pow`, which differ between libraries.

/// A stream of random numbers: SplitMix64, which is small, fast and passes BigCrush.
#[derive(Clone, Debug)]
pub struct Rng(u64);

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// The stream of this seed, purpose and index.
    pub fn new(seed: u64, purpose: u64, index: u64) -> Self {
        Self(mix(mix(mix(seed) ^ purpose.wrapping_mul(0x9e37_79b9_7f4a_7c15)) ^ index))
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number from 0 to `n - 1`; 0 when `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(n)) >> 64) as u64
    }

    /// A number from `low` to `high`, both included.
    pub fn range(&mut self, low: i64, high: i64) -> i64 {
        low.wrapping_add(self.below(high.wrapping_sub(low).wrapping_add(1).max(1) as u64) as i64)
    }

    /// From 0 (included) to 1 (excluded), in steps of 2^-53.
    pub fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Whether something that happens in `percent` of cases happens.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// One of these.
    pub fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len() as u64) as usize]
    }

    /// Gap to the next event of a Poisson process with this mean.
    pub fn exponential(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.unit()).ln()
    }
}

/// Ranks by weight: 0 is drawn most often.
#[derive(Clone, Debug)]
pub struct Ranks {
    cumulative: Vec<f64>,
}

impl Ranks {
    /// Zipf's law with exponent 1: rank r is drawn in proportion to 1/(r+1).
    pub fn zipf(n: usize) -> Self {
        Self::weighted((0..n).map(|rank| 1.0 / (rank + 1) as f64))
    }

    /// Zipf's law with any exponent. Not for generated data, as `powf` differs between C libraries.
    pub fn zipf_with(n: usize, exponent: f64) -> Self {
        Self::weighted((0..n).map(|rank| ((rank + 1) as f64).powf(-exponent)))
    }

    /// Any weights, none negative.
    pub fn weighted(weights: impl IntoIterator<Item = f64>) -> Self {
        let mut sum = 0.0;
        let cumulative = weights.into_iter().map(|weight| {
            sum += weight;
            sum
        });
        Self { cumulative: cumulative.collect() }
    }

    /// A rank; 0 when there are none.
    pub fn draw(&self, rng: &mut Rng) -> usize {
        let Some(total) = self.cumulative.last() else { return 0 };
        let at = rng.unit() * total;
        self.cumulative.partition_point(|sum| *sum <= at).min(self.cumulative.len() - 1)
    }
}

/// Spreads ranks over 1..=n one to one, so that what is popular is not what has the lowest numbers.
#[derive(Clone, Copy, Debug)]
pub struct Scatter {
    n: u64,
    step: u64,
}

impl Scatter {
    /// Over 1..=n.
    pub fn new(n: u64) -> Self {
        let mut step = (n as f64 * 0.618_033_988_749_894_9) as u64 | 1;
        while gcd(step, n) != 1 {
            step += 1;
        }
        Self { n, step }
    }

    /// The number of a rank.
    pub fn at(self, rank: u64) -> u64 {
        if self.n == 0 {
            return 0;
        }
        ((u128::from(rank) * u128::from(self.step)) % u128::from(self.n)) as u64 + 1
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a.max(1) } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn streams_are_fixed_for_all_times() {
        let mut rng = Rng::new(1, 2, 3);
        let first = [rng.bits(), rng.bits()];
        assert_eq!(first, [3_248_672_554_318_616_401, 11_760_736_578_415_723_975]);
        assert_ne!(Rng::new(1, 2, 4).bits(), first[0]);
        assert_ne!(Rng::new(2, 2, 3).bits(), first[0]);
    }

    #[test]
    fn scatter_is_one_to_one() {
        for n in [1, 2, 3, 10, 300, 4800, 8191] {
            let scatter = Scatter::new(n);
            let all: BTreeSet<u64> = (0..n).map(|rank| scatter.at(rank)).collect();
            assert_eq!(all, (1..=n).collect(), "{n}");
        }
    }

    #[test]
    fn zipf_draws_what_it_says() {
        let ranks = Ranks::zipf(1000);
        let mut rng = Rng::new(7, 0, 0);
        let mut counts = vec![0u32; 1000];
        for _ in 0..200_000 {
            counts[ranks.draw(&mut rng)] += 1;
        }
        // 1/H(1000) = 13.36 % of draws are the first rank, half of that the second.
        let share = |rank: usize| f64::from(counts[rank]) / 200_000.0;
        assert!((share(0) - 0.1336).abs() < 0.003, "{}", share(0));
        assert!((share(1) - 0.0668).abs() < 0.003, "{}", share(1));
        assert!(counts[999] < 100);
    }

    #[test]
    fn ranges_include_both_ends_and_nothing_else() {
        let mut rng = Rng::new(3, 1, 4);
        let seen: BTreeSet<i64> = (0..1000).map(|_| rng.range(-2, 2)).collect();
        assert_eq!(seen, (-2..=2).collect());
        assert_eq!(rng.range(5, 5), 5);
        assert_eq!(Ranks::zipf(0).draw(&mut rng), 0);
    }
}
