//! When statements are due, in an open loop. A thread of its own keeps the time, because the runtime's timers have a
//! resolution of a millisecond and share their thread with all work.

use std::time::Duration;

use tokio::{sync::mpsc, time::Instant};

use super::{Stop, worker::Shared};
use crate::rng::Rng;

/// How gaps between arrivals are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrivals {
    /// As if many independent users came by: exponential gaps.
    Poisson,
    /// All gaps alike.
    Uniform,
}

/// A share of the run with a rate, or one that changes evenly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Segment {
    /// Statements a second at its beginning.
    pub from: f64,
    /// And at its end.
    pub to: f64,
}

impl Segment {
    /// Parses `500` (a rate), `100,200,400` (steps), `100..1000` (a ramp) and combinations.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(text: &str) -> Result<Vec<Self>, String> {
        let rate = |text: &str| match text.trim().parse::<f64>() {
            Ok(rate) if rate > 0.0 && rate <= 1e6 => Ok(rate),
            _ => Err(format!(
                "`{text}` is not a rate: write statements a second, as `500`, `100,200` or `100..1000`"
            )),
        };
        let segment = |text: &str| {
            let (from, to) = text.split_once("..").unwrap_or((text, text));
            Ok(Self { from: rate(from)?, to: rate(to)? })
        };
        text.split(',').map(segment).collect()
    }
}

/// The rate at a time that is `at` of 1 through all segments.
fn rate(segments: &[Segment], at: f64) -> f64 {
    let place = at.clamp(0.0, 1.0) * segments.len() as f64;
    let index = (place as usize).min(segments.len() - 1);
    let Segment { from, to } = segments[index];
    from + (to - from) * (place - index as f64).min(1.0)
}

/// Draws the times at which statements are due, in seconds from the beginning.
struct Clock {
    segments: Vec<Segment>,
    arrivals: Arrivals,
    /// Warm-up and the rest, seconds; the segments share the rest, warm-up goes at the first rate.
    warmup: f64,
    total: f64,
    rng: Rng,
    at: f64,
}

impl Iterator for Clock {
    type Item = f64;

    fn next(&mut self) -> Option<f64> {
        let progress = (self.at - self.warmup) / (self.total - self.warmup).max(1e-9);
        let mean = 1.0 / rate(&self.segments, progress);
        self.at += match self.arrivals {
            Arrivals::Poisson => self.rng.exponential(mean),
            Arrivals::Uniform => mean,
        };
        (self.at < self.total).then_some(self.at)
    }
}

/// Puts statements into the queue when they are due, until the end.
pub(super) async fn feed(
    shared: &Shared,
    segments: &[Segment],
    arrivals: Arrivals,
    end: Instant,
    stop: &Stop,
) {
    let clock = Clock {
        segments: segments.to_vec(),
        arrivals,
        warmup: shared.options.warmup.as_secs_f64(),
        total: (end - shared.begin).as_secs_f64(),
        rng: Rng::new(shared.options.seed, 100, 0),
        at: 0.0,
    };
    let (due, mut queue) = mpsc::unbounded_channel();
    let (begin, quit) = (shared.begin, stop.clone());
    let keeper = std::thread::Builder::new().name("schedule".to_owned()).spawn(move || {
        for at in clock {
            let at = begin + Duration::from_secs_f64(at);
            // Short sleeps, so that a stop is seen.
            while let Some(left) = at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
                std::thread::sleep(left.min(Duration::from_millis(200)));
                if quit.is_set() {
                    return;
                }
            }
            if due.send(at).is_err() || quit.is_set() {
                return;
            }
        }
    });
    if keeper.is_err() {
        return;
    }
    let mut number = 0;
    let mut batch = Vec::new();
    loop {
        let received = tokio::select! {
            received = queue.recv_many(&mut batch, 256) => received,
            () = stop.wait() => 0,
        };
        if received == 0 {
            break;
        }
        let now = Instant::now();
        for at in batch.drain(..) {
            shared.recorder.borrow_mut().lag(at, now);
            let mut rng = Rng::new(shared.options.seed, 101, number);
            let statement = shared.bound.statement(&mut rng);
            shared.queue.borrow_mut().push_back((at, statement, rng));
            shared.work.notify_one();
            number += 1;
        }
    }
    // The last statement may be due well before the end.
    if !stop.is_set() {
        tokio::select! {
            () = tokio::time::sleep_until(end) => {}
            () = stop.wait() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(text: &str, arrivals: Arrivals) -> Clock {
        let segments = Segment::parse(text).unwrap();
        Clock { segments, arrivals, warmup: 0.0, total: 30.0, rng: Rng::new(1, 2, 3), at: 0.0 }
    }

    #[test]
    fn rates_steps_and_ramps() {
        let count = |text, arrivals, from: f64, to: f64| {
            clock(text, arrivals).filter(|at| (from..to).contains(at)).count() as f64
        };
        assert!((count("100", Arrivals::Uniform, 0.0, 30.0) - 3000.0).abs() <= 1.0);
        assert!((count("100", Arrivals::Poisson, 0.0, 30.0) - 3000.0).abs() < 200.0);
        assert!((count("100,200,400", Arrivals::Uniform, 0.0, 10.0) - 1000.0).abs() <= 2.0);
        assert!((count("100,200,400", Arrivals::Uniform, 20.0, 30.0) - 4000.0).abs() <= 2.0);
        // From 0 to 3000 over 30 s: 1500 a second on average, nine tenths of that after a third.
        assert!((count("1..3000", Arrivals::Uniform, 0.0, 30.0) / 45_000.0 - 1.0).abs() < 0.02);
        assert!((count("1..3000", Arrivals::Uniform, 0.0, 10.0) / 5_000.0 - 1.0).abs() < 0.05);
        assert!(clock("5", Arrivals::Poisson).is_sorted());
    }

    #[test]
    fn what_is_no_rate_is_refused() {
        for text in ["", "0", "-5", "x", "1..", "1,,2", "inf"] {
            assert!(Segment::parse(text).is_err(), "{text}");
        }
    }
}
