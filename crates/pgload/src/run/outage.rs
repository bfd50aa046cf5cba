//! The longest time without a successful write.

use serde::{Deserialize, Serialize};

/// A gap, and what was seen in it. Times are seconds from the beginning of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outage {
    /// Of the last success before it.
    pub from: f64,
    /// Of the first success after it; the end of the run when there was none.
    pub to: f64,
    /// Whether there was a success after it.
    pub recovered: bool,
    /// First error in it: when and what.
    pub first_error: Option<(f64, String)>,
    /// Last error in it.
    pub last_error: Option<(f64, String)>,
}

impl Outage {
    /// Seconds.
    pub fn length(&self) -> f64 {
        self.to - self.from
    }
}

/// Looks for the longest gap.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    now: Outage,
    worst: Option<Outage>,
}

impl Watch {
    /// A success.
    pub fn ok(&mut self, at: f64) {
        self.end(at, true);
        self.now = Outage { from: at, ..Outage::default() };
    }

    /// An error.
    pub fn error(&mut self, at: f64, text: &str) {
        let error = Some((at, text.to_owned()));
        if self.now.first_error.is_none() {
            self.now.first_error.clone_from(&error);
        }
        self.now.last_error = error;
    }

    /// When the last success was; 0 before the first.
    pub fn last_ok(&self) -> f64 {
        self.now.from
    }

    fn end(&mut self, at: f64, recovered: bool) {
        let longest = self.worst.as_ref().map_or(-1.0, Outage::length);
        if at - self.now.from > longest {
            self.worst = Some(Outage { to: at, recovered, ..self.now.clone() });
        }
    }

    /// The longest gap up to the end.
    pub fn worst(mut self, end: f64) -> Option<Outage> {
        self.end(end, false);
        self.worst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_with_its_errors_is_found() {
        let mut watch = Watch::default();
        for at in [0.5, 1.0, 1.5] {
            watch.ok(at);
        }
        watch.error(1.6, "57P01");
        watch.error(3.0, "08006");
        watch.ok(5.0);
        watch.error(5.1, "40001");
        watch.ok(6.0);
        let worst = watch.clone().worst(7.0).unwrap();
        assert_eq!((worst.from, worst.to, worst.recovered), (1.5, 5.0, true));
        assert_eq!(worst.first_error, Some((1.6, "57P01".into())));
        assert_eq!(worst.last_error, Some((3.0, "08006".into())));
        let worst = watch.worst(20.0).unwrap();
        assert_eq!((worst.from, worst.to, worst.recovered), (6.0, 20.0, false));
    }
}
