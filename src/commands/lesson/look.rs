//! One look at what a check is about.

use std::time::Duration;

use super::{hosts::now, loops, play::Player};
use crate::{
    lesson::{
        Check, Role, Writes,
        evidence::outage,
        judge::{self, Seen, Verdict},
    },
    ssh::quote,
};

/// How long one look may take.
const LOOK: Duration = Duration::from_secs(30);
/// Writes that show that the writer gets on.
const GOES_ON: usize = 3;
/// Seconds without an acknowledgement after which the writer stands still.
const STANDS_STILL: f64 = 2.0;
/// Where the agent of a host says what it counts, as a shell word on that host: its settings have address and port.
const AGENT_METRICS: &str =
    r#""http://$(sed -n 's/^metrics = "\(.*\)"/\1/p' /etc/pgagent/pgagent.toml)/metrics""#;

impl Player<'_> {
    /// Looks once. `first` keeps what was seen first, for what has to grow.
    pub(super) fn look(
        &mut self,
        check: &Check,
        began: f64,
        since: f64,
        first: &mut Option<String>,
    ) -> anyhow::Result<Verdict> {
        let on = check.on.as_deref().unwrap_or_default();
        let (to, database) = (check.to.as_deref(), check.database.as_deref());
        let seen = if let Some(sql) = &check.sql {
            let sql = self.hosts.fill(sql, check.on.as_deref());
            self.hosts.value(on, to, database, &sql, LOOK)?
        } else if let Some(script) = &check.shell {
            let script = self.hosts.fill(script, check.on.as_deref());
            self.hosts.run(on, "bash -s", &script, LOOK)?
        } else if let Some(pattern) = &check.log {
            return self.log(on, pattern);
        } else if let Some(role) = check.role {
            return self.role(on, role);
        } else if let Some(bytes) = check.lag {
            return self.lag(on, check.of.as_deref().unwrap_or_default(), bytes);
        } else if let Some(metric) = &check.metric {
            let script =
                format!("curl -sf -m 5 {AGENT_METRICS} | sed -n 's/^{metric}\\({{[^}}]*}}\\)\\? //p'");
            self.hosts.run(on, "bash -s", &script, LOOK)?
        } else if let Some(file) = &check.file {
            let script = format!("head -c 65536 -- {}", quote(&self.hosts.fill(file, Some(on))));
            self.hosts.run(on, &script, "", LOOK)?
        } else if let Some(writes) = check.writes {
            return self.writes(check, writes, began, since);
        } else {
            let took = now() - began;
            let held = check.took.is_none_or(|limit| took <= f64::from(limit));
            return Ok(Verdict { held, observed: format!("{took:.1} s") });
        };
        let verdict = judge::compare(check, &seen, first.as_deref());
        if first.is_none() && seen.ok {
            *first = Some(seen.text);
        }
        Ok(verdict)
    }

    fn log(&mut self, on: &str, pattern: &str) -> anyhow::Result<Verdict> {
        const SHOWN: usize = 5;
        let pattern = regex_lite::Regex::new(pattern)?;
        let lines = self.hosts.logs(on, self.began)?;
        let fitting: Vec<&str> =
            lines.iter().filter(|line| pattern.is_match(&line.text)).map(|line| line.text.as_str()).collect();
        Ok(match fitting.len() {
            0 => Verdict { held: false, observed: format!("none of {} lines", lines.len()) },
            _ => Verdict { held: true, observed: fitting[..fitting.len().min(SHOWN)].join("\n") },
        })
    }

    fn role(&mut self, on: &str, wanted: Role) -> anyhow::Result<Verdict> {
        let seen = self.hosts.value(on, None, Some("postgres"), "select pg_is_in_recovery()", LOOK)?;
        let is = match (seen.ok, seen.text.trim()) {
            (true, "f") => Role::Primary,
            (true, "t") => Role::Standby,
            _ => Role::Down,
        };
        let observed = match is {
            Role::Down => format!("down: {}", seen.complaint.trim()),
            other => other.word().to_owned(),
        };
        Ok(Verdict { held: is == wanted, observed })
    }

    fn lag(&mut self, on: &str, of: &str, most: u64) -> anyhow::Result<Verdict> {
        let sql = format!(
            "select pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint from pg_stat_replication \
             where application_name = '{of}' and state = 'streaming' order by 1 desc limit 1"
        );
        let Seen { ok, text, complaint } = self.hosts.value(on, None, Some("postgres"), &sql, LOOK)?;
        let lag = text.trim().parse::<i64>().ok();
        let observed = match lag {
            Some(lag) => format!("{lag} bytes"),
            None if ok => format!("{of} does not stream from {on}"),
            None => complaint.trim().to_owned(),
        };
        Ok(Verdict { held: lag.is_some_and(|lag| lag <= i64::try_from(most).unwrap_or(i64::MAX)), observed })
    }

    fn writes(&mut self, check: &Check, wanted: Writes, began: f64, since: f64) -> anyhow::Result<Verdict> {
        let number =
            |seconds: f64| Seen { ok: true, text: format!("{seconds:.1}"), complaint: String::new() };
        if wanted == Writes::Kept {
            let lost = self.loops.lost(&mut self.hosts)?.unwrap_or_default();
            let most = check.at_most.unwrap_or(0.0);
            return Ok(Verdict {
                held: lost.len() as f64 <= most,
                observed: format!("{} lost {lost:?}", lost.len()),
            });
        }
        let writes = self.loops.writes(&mut self.hosts)?;
        let last = writes.iter().rev().find(|write| !write.answer.is_empty() && write.end >= began);
        let told = last.map(|write| format!("; at last it was told: {}", write.answer)).unwrap_or_default();
        Ok(match wanted {
            Writes::GoOn => {
                let count = loops::acknowledged_since(&writes, since);
                let told = if count < GOES_ON { told } else { String::new() };
                Verdict { held: count >= GOES_ON, observed: format!("{count} new writes{told}") }
            }
            Writes::StandStill => {
                let silent = loops::silent_for(&writes);
                Verdict {
                    held: silent >= STANDS_STILL,
                    observed: format!("the last one {silent:.1} s ago{told}"),
                }
            }
            Writes::Outage | Writes::Kept => {
                judge::compare(check, &number(outage(&writes, began, now())), None)
            }
        })
    }
}
