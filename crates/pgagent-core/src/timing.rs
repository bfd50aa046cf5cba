//! Heartbeat, fence and promote: three times that only make sense together.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

/// How soon a failover should happen, as the topology says it. Sooner means that shorter disturbances count as failures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Rto {
    /// A quiet network of real machines: about 2 s until the standby decides.
    Fast,
    /// The default: about 3 s.
    #[default]
    Norm,
    /// A busy or emulated host: about 7.5 s.
    Safe,
    /// Long distances and bad links: about 20 s.
    Wide,
}

/// The times of one cluster, in milliseconds. See [`Timing::check`] for what ties them together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timing {
    /// How often agents write to each other, and how often they look at PostgreSQL.
    pub heartbeat: u32,
    /// How long a lease lasts, counted on the primary's clock from when it asked: a primary that nobody answers is closed
    /// after this time.
    pub fence: u32,
    /// How long grantors wait after a primary's last sign of life, counted on their clocks from when it arrived.
    pub promote: u32,
    /// How long a synchronous standby may owe an acknowledgement before the primary asks to go on without it.
    pub sync_loss: u32,
    /// How long a fresh `synchronous_standby_names` must have been in force before its effect is believed.
    pub settle: u32,
}

/// Why [`Timing`] does not work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimingError(String);

impl fmt::Display for TimingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for TimingError {}

/// How wrong a clock's rate may be, in per cent: chrony slews by up to 8.3 % when it corrects a clock.
pub const DRIFT_PERCENT: u64 = 10;
/// How long the kernel may take to close a port whose time is up, in milliseconds.
pub const ENFORCE_MS: u64 = 100;
/// What must be left between the last moment of the old primary and the first of the new one, in milliseconds.
pub const MARGIN_MS: u64 = 300;

impl Timing {
    /// The times that stand for a recovery time objective.
    pub const fn of(rto: Rto) -> Timing {
        let (heartbeat, fence, promote) = match rto {
            Rto::Fast => (250, 1_200, 2_000),
            Rto::Norm => (500, 2_000, 3_000),
            Rto::Safe => (1_000, 5_000, 7_500),
            Rto::Wide => (2_000, 14_000, 20_000),
        };
        Timing { heartbeat, fence, promote, sync_loss: promote, settle: 100 }
    }

    /// Checks that a primary is closed before anyone is promoted, however wrong the clocks are within [`DRIFT_PERCENT`]:
    /// `fence / (1 - drift) + enforcement <= promote / (1 + drift) - margin`, and `heartbeat <= fence / 4`.
    pub fn check(&self) -> Result<(), TimingError> {
        if self.heartbeat == 0 || u64::from(self.heartbeat) * 4 > u64::from(self.fence) {
            let Timing { heartbeat, fence, .. } = self;
            return Err(TimingError(format!(
                "heartbeat {heartbeat} ms is more than a quarter of fence {fence} ms: one lost message would close the primary"
            )));
        }
        if !Timing::fits(self.fence, self.promote) {
            let (fence, promote) = (self.fence, self.promote);
            return Err(TimingError(format!(
                "promote {promote} ms is too close to fence {fence} ms: a primary with a slow clock would still be open; \
                 promote needs at least {} ms",
                Timing::least_promote(fence)
            )));
        }
        if self.sync_loss < self.heartbeat {
            return Err(TimingError(format!(
                "sync_loss {} ms is less than heartbeat {} ms: every standby would look lost",
                self.sync_loss, self.heartbeat
            )));
        }
        Ok(())
    }

    /// Whether a primary that fences after `fence` ms is closed when a grantor promotes after `promote` ms. The two
    /// numbers may come from two hosts' settings.
    pub fn fits(fence: u32, promote: u32) -> bool {
        promote >= Timing::least_promote(fence)
    }

    fn least_promote(fence: u32) -> u32 {
        let closed = (u64::from(fence) * 100).div_ceil(100 - DRIFT_PERCENT) + ENFORCE_MS + MARGIN_MS;
        u32::try_from((closed * (100 + DRIFT_PERCENT)).div_ceil(100)).unwrap_or(u32::MAX)
    }

    /// [`Timing::heartbeat`].
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat.into())
    }

    /// [`Timing::fence`].
    pub fn fence(&self) -> Duration {
        Duration::from_millis(self.fence.into())
    }

    /// [`Timing::promote`].
    pub fn promote(&self) -> Duration {
        Duration::from_millis(self.promote.into())
    }

    /// [`Timing::sync_loss`].
    pub fn sync_loss(&self) -> Duration {
        Duration::from_millis(self.sync_loss.into())
    }

    /// [`Timing::settle`].
    pub fn settle(&self) -> Duration {
        Duration::from_millis(self.settle.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_objective_keeps_the_inequality() {
        for rto in [Rto::Fast, Rto::Norm, Rto::Safe, Rto::Wide] {
            Timing::of(rto).check().unwrap_or_else(|error| panic!("{rto:?}: {error}"));
        }
    }

    #[test]
    fn a_promotion_that_could_meet_an_open_primary_is_refused() {
        let norm = Timing::of(Rto::Norm);
        let error = Timing { promote: 2_800, ..norm }.check().unwrap_err().to_string();
        assert_eq!(
            error,
            "promote 2800 ms is too close to fence 2000 ms: a primary with a slow clock would still be open; promote needs \
             at least 2886 ms"
        );
        assert!(Timing { promote: 2_886, ..norm }.check().is_ok());
        assert!(Timing { heartbeat: 501, ..norm }.check().is_err());
        assert!(Timing { sync_loss: 10, ..norm }.check().is_err());
    }
}
