//! Runs side by side: per statement the change with its confidence interval, and what is different in the plans.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::{
    plan,
    results::{Results, Run},
    rng::Rng,
};

/// Resamples for a confidence interval of 95 %.
const RESAMPLES: usize = 1_000;
/// Changes smaller than this are none, whatever the interval says.
const LEAST: f64 = 0.05;
/// With so many repetitions on both sides they are what is resampled; with fewer, blocks of seconds are.
const REPETITIONS: usize = 4;

/// What is compared.
const QUANTILES: [f64; 3] = [0.5, 0.95, 0.99];

/// A figure before and after.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Change {
    /// Microseconds.
    pub before: f64,
    /// Microseconds.
    pub after: f64,
    /// After divided by before.
    pub ratio: f64,
    /// With 95 % confidence it is not below this,
    pub low: f64,
    /// nor above this.
    pub high: f64,
}

/// What the median says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// By more than 5 %, and not by chance.
    Faster,
    /// By more than 5 %, and not by chance.
    Slower,
    /// Within what chance does.
    Same,
}

/// A statement.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Of the statement.
    pub name: String,
    /// How often it was run.
    pub counts: [u64; 2],
    /// Response: median, 95 % and 99 %.
    pub p50: Change,
    /// 95 of 100.
    pub p95: Change,
    /// 99 of 100.
    pub p99: Change,
    /// By the median.
    pub verdict: Verdict,
    /// What is different in the plan.
    pub plan: Vec<String>,
}

/// All statements that both sides have.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// Runs before.
    pub before: Vec<String>,
    /// Runs after.
    pub after: Vec<String>,
    /// What makes the comparison doubtful, and other settings.
    pub remarks: Vec<String>,
    /// In the order of the workload.
    pub rows: Vec<Row>,
}

/// Compares runs with runs; each side may have several of the same kind.
pub fn compare(before: &[Results], after: &[Results]) -> Comparison {
    let ids = |runs: &[Results]| runs.iter().map(|results| results.run.id.clone()).collect();
    let mut rows = Vec::new();
    for statement in before.first().map_or(&[][..], |first| &first.run.statements) {
        if let Some(row) = row(&statement.name, before, after) {
            rows.push(row);
        }
    }
    Comparison { before: ids(before), after: ids(after), remarks: remarks(before, after), rows }
}

fn row(name: &str, before: &[Results], after: &[Results]) -> Option<Row> {
    let samples = [Sample::new(name, before), Sample::new(name, after)];
    let counts = [samples[0].total, samples[1].total];
    if counts.contains(&0) {
        return None;
    }
    let [p50, p95, p99] = changes(&samples);
    let verdict = match p50 {
        Change { ratio, high, .. } if ratio < 1.0 - LEAST && high < 1.0 => Verdict::Faster,
        Change { ratio, low, .. } if ratio > 1.0 + LEAST && low > 1.0 => Verdict::Slower,
        _ => Verdict::Same,
    };
    let plans = |runs: &'_ [Results]| runs.iter().find_map(|results| results.plans.get(name).cloned());
    let plan = match (plans(before), plans(after)) {
        (Some(before), Some(after)) => plan::difference(&before, &after),
        _ => Vec::new(),
    };
    Some(Row { name: name.to_owned(), counts, p50, p95, p99, verdict, plan })
}

/// Values of one side, in units that can be resampled.
struct Sample {
    /// All values that occur, ascending.
    values: Vec<u64>,
    /// Of each unit: index of a value, and how often.
    units: Vec<Vec<(usize, u64)>>,
    total: u64,
}

impl Sample {
    fn new(name: &str, runs: &[Results]) -> Self {
        let of = runs.iter().filter_map(|results| results.histograms.get(name));
        let units: Vec<&Histogram<u64>> = match runs.len() >= REPETITIONS {
            true => of.map(|of| &of.response).collect(),
            false => of.flat_map(|of| &of.blocks).collect(),
        };
        let units: Vec<_> = units.into_iter().filter(|unit| !unit.is_empty()).collect();
        let mut numbers = BTreeMap::new();
        for unit in &units {
            for value in unit.iter_recorded() {
                numbers.insert(value.value_iterated_to(), 0);
            }
        }
        for (number, index) in numbers.values_mut().enumerate() {
            *index = number;
        }
        let sparse = |unit: &&Histogram<u64>| {
            unit.iter_recorded()
                .map(|value| (numbers[&value.value_iterated_to()], value.count_since_last_iteration()))
                .collect()
        };
        Self {
            units: units.iter().map(sparse).collect(),
            total: units.iter().map(|unit| unit.len()).sum(),
            values: numbers.into_keys().collect(),
        }
    }

    /// Quantiles of the units, each taken as often as its weight says.
    fn quantiles(&self, weights: &[u64]) -> [f64; 3] {
        let mut counts = vec![0; self.values.len()];
        let mut total = 0;
        for (unit, weight) in self.units.iter().zip(weights) {
            for (index, count) in unit {
                counts[*index] += count * weight;
                total += count * weight;
            }
        }
        QUANTILES.map(|quantile| {
            let wanted = ((total as f64 * quantile).ceil() as u64).max(1);
            let mut sum = 0;
            let found = counts.iter().position(|count| {
                sum += count;
                sum >= wanted
            });
            found.map_or(0.0, |index| self.values[index] as f64)
        })
    }

    fn resample(&self, rng: &mut Rng) -> [f64; 3] {
        let mut weights = vec![0; self.units.len()];
        for _ in 0..self.units.len() {
            weights[rng.below(self.units.len() as u64) as usize] += 1;
        }
        self.quantiles(&weights)
    }
}

/// Bootstrap: the ratio of two resampled sides, a thousand times; the middle 95 % of that.
fn changes(samples: &[Sample; 2]) -> [Change; 3] {
    let [before, after] = samples.each_ref().map(|sample| sample.quantiles(&vec![1; sample.units.len()]));
    let mut rng = Rng::new(1, 104, 0);
    let mut ratios: [Vec<f64>; 3] = Default::default();
    for _ in 0..RESAMPLES {
        let [before, after] = samples.each_ref().map(|sample| sample.resample(&mut rng));
        for index in 0..3 {
            ratios[index].push(after[index] / before[index].max(1.0));
        }
    }
    std::array::from_fn(|index| {
        let ratios = &mut ratios[index];
        ratios.sort_by(f64::total_cmp);
        Change {
            before: before[index],
            after: after[index],
            ratio: after[index] / before[index].max(1.0),
            low: ratios[RESAMPLES * 25 / 1000],
            high: ratios[RESAMPLES * 975 / 1000 - 1],
        }
    })
}

/// What is not the same but should be, and settings that differ.
fn remarks(before: &[Results], after: &[Results]) -> Vec<String> {
    let (Some(first), Some(other)) = (before.first(), after.first()) else { return Vec::new() };
    let mut remarks = Vec::new();
    let all: Vec<&Run> = before.iter().chain(after).map(|results| &results.run).collect();
    for (what, of) in [
        ("workload", &(|run: &Run| run.workload.clone()) as &dyn Fn(&Run) -> String),
        ("load", &|run| run.load.clone()),
        ("seed", &|run| run.seed.to_string()),
        ("data", &|run| run.environment.dataset.clone().unwrap_or_default()),
        ("server", &|run| run.environment.server.clone()),
    ] {
        let mut values: Vec<String> = all.iter().map(|run| of(run)).collect();
        values.dedup();
        if values.len() > 1 {
            remarks.push(format!("different {what}: {}", values.join(" | ")));
        }
    }
    for run in &all {
        remarks.extend(run.invalid.iter().map(|reason| format!("run {} is invalid: {reason}", run.id)));
    }
    let (was, is) = (&first.run.environment.settings, &other.run.environment.settings);
    let names: std::collections::BTreeSet<&String> = was.keys().chain(is.keys()).collect();
    for name in names {
        let text = |settings: &BTreeMap<String, String>| {
            settings.get(name).map_or("default", |value| value).to_owned()
        };
        if text(was) != text(is) {
            remarks.push(format!("setting {name}: {} -> {}", text(was), text(is)));
        }
    }
    remarks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(units: &[&[u64]]) -> Sample {
        let mut values: Vec<u64> = units.concat();
        values.sort_unstable();
        values.dedup();
        let unit = |unit: &&[u64]| {
            unit.iter().map(|value| (values.binary_search(value).unwrap(), 1)).collect::<Vec<_>>()
        };
        Sample {
            units: units.iter().map(unit).collect(),
            total: units.concat().len() as u64,
            values: values.clone(),
        }
    }

    #[test]
    fn the_interval_is_narrow_for_steady_figures_and_wide_for_others() {
        let steady = || sample(&[&[100, 101, 102], &[99, 100, 101], &[100, 100, 103], &[98, 101, 100]]);
        let [p50, ..] = changes(&[steady(), sample(&[&[50, 51], &[50, 52], &[49, 50], &[51, 50]])]);
        assert!((p50.ratio - 0.5).abs() < 0.02 && p50.low > 0.47 && p50.high < 0.53, "{p50:?}");
        let [p50, ..] = changes(&[steady(), sample(&[&[20, 21], &[400, 410], &[30, 35], &[300, 310]])]);
        assert!(p50.low < 1.0 && p50.high > 1.0, "{p50:?}");
    }

    #[test]
    fn quantiles_are_those_of_all_values() {
        let sample = sample(&[&[1, 2, 3, 4, 5], &[6, 7, 8, 9, 10]]);
        assert_eq!(sample.quantiles(&[1, 1]), [5.0, 10.0, 10.0]);
        assert_eq!(sample.quantiles(&[2, 0]), [3.0, 5.0, 5.0]);
    }
}
