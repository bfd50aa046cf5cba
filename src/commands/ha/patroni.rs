//! `pgprov ha` in a lab with Patroni: what its members say of each other, and what the operator wants, over their REST API.

use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::{Value, json};

use super::hosts::Hosts;
use crate::{
    cli::{Ha, HaRejoin, HaSwitchover, HaWait},
    commands::context::{Assets, OpenLab},
    error::{Error, Kind, Result},
    ui::{self, Ui},
};

/// The file that makes a host a member, whatever role brought it. It knows the REST API and has the host's certificate.
const PROGRAM: &str = "/usr/local/sbin/patroni-lab";
/// How long between two looks.
const TURN: Duration = Duration::from_millis(500);
const ANSWER: Duration = Duration::from_secs(20);
/// A switchover answers when it is over.
const SWITCHOVER: Duration = Duration::from_secs(180);

/// What etcd has of a cluster, as `GET /cluster` tells it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Cluster {
    members: Vec<Member>,
    pause: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Member {
    name: String,
    /// `leader`, `replica`, `sync_standby`, ...
    role: String,
    /// `running` of a leader, `streaming` of a replica, when all is well.
    state: String,
    timeline: Option<u64>,
    /// Bytes, or `unknown`.
    lag: Value,
    pending_restart: bool,
}

impl Member {
    fn is_well(&self) -> bool {
        match self.role.as_str() {
            "leader" => self.state == "running",
            _ => self.state == "streaming",
        }
    }
}

impl Cluster {
    fn leader(&self) -> Option<&Member> {
        self.members.iter().find(|member| member.role == "leader")
    }

    fn member(&self, name: &str) -> Option<&Member> {
        self.members.iter().find(|member| member.name == name)
    }
}

/// Runs a verb.
///
/// # Errors
/// No member answers, Patroni refuses, or what was asked for did not happen in time.
pub fn run(ui: &Ui, open: &OpenLab, assets: &Assets, verb: &Ha) -> Result {
    let mut members = Members(Hosts::with_file(open, &open.rendered(assets)?, PROGRAM));
    match verb {
        Ha::Status(_) => status(ui, &open.lab.name, &members.get("/cluster")?),
        Ha::Explain(_) => explain(ui, &members.cluster()?),
        Ha::Switchover(args) => switchover(ui, &mut members, args),
        Ha::Reinit(args) | Ha::Rejoin(args) => reinit(ui, open, &mut members, args),
        Ha::Pause(args) => pause(ui, &mut members, true, args.wait),
        Ha::Resume(args) => pause(ui, &mut members, false, args.wait),
        Ha::History(_) => history(ui, &members.get("/history")?),
        Ha::Show(_) => show(ui, &members.get("/config")?),
        Ha::Maintenance(_) | Ha::Promote(_) | Ha::Arbiter(_) => {
            Err(Error::usage("that is a word for pgagent, and this lab has Patroni")
                .hint("there are `pgprov ha switchover`, `pause`, `resume`, `reinit`; see docs/patroni.md"))
        }
    }
}

/// The hosts with Patroni.
struct Members<'a>(Hosts<'a>);

impl Members<'_> {
    /// What the members say, or the first of those that answer.
    fn get(&mut self, path: &str) -> Result<Value> {
        let answers = self.0.ask(&format!("patroni-lab rest GET {path}"), ANSWER);
        let mut silent = Vec::new();
        for (host, answer) in answers {
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => silent.push(format!("{host}: {error:#}")),
            }
        }
        let error = Error::failed("no member of the cluster answers");
        Err(silent.into_iter().fold(error, |error, line| error.hint(ui::printable(&line))))
    }

    fn cluster(&mut self) -> Result<Cluster> {
        Cluster::deserialize(self.get("/cluster")?)
            .map_err(|error| Error::failed(format!("Patroni: {error}")))
    }

    /// Tells one member something; what it says.
    fn tell(
        &mut self,
        host: &str,
        method: &str,
        path: &str,
        body: &Value,
        limit: Duration,
    ) -> Result<String> {
        let seconds = limit.as_secs();
        let command = format!("SECONDS_MAX={seconds} patroni-lab rest {method} {path} '{body}'");
        self.0.run(host, &command, limit + ANSWER).map_err(|error| {
            Error::failed(ui::printable(&format!("{host}: {method} {path}: {error:#}")))
                .hint("see: pgprov ha status")
        })
    }

    /// Looks again and again until it is so.
    fn until(&mut self, limit: Instant, what: &str, is_so: impl Fn(&Cluster) -> bool) -> Result<Cluster> {
        let begun = Instant::now();
        loop {
            let seen = self.cluster();
            if let Ok(cluster) = &seen
                && is_so(cluster)
            {
                return seen;
            }
            if Instant::now() >= limit {
                let waited = begun.elapsed().as_secs();
                let error = Error::new(Kind::Timeout, format!("waited {waited} s for {what}"));
                let lines = seen.map(|cluster| sentences(&cluster)).unwrap_or_default();
                return Err(lines.into_iter().fold(error, Error::hint));
            }
            std::thread::sleep(TURN);
        }
    }
}

/// The leader hands over in good order.
fn switchover(ui: &Ui, members: &mut Members<'_>, args: &HaSwitchover) -> Result {
    let before = members.cluster()?;
    let Some(from) = before.leader().map(|leader| leader.name.clone()) else {
        let error = Error::failed("nobody leads, so nobody can hand over");
        return Err(sentences(&before).into_iter().fold(error, Error::hint));
    };
    let mut body = json!({ "leader": from });
    if let Some(to) = &args.to {
        body["candidate"] = json!(to);
    }
    let begun = Instant::now();
    members.tell(&from, "POST", "/switchover", &body, SWITCHOVER)?;
    let limit = begun + Duration::from_secs(args.wait.wait);
    let leads = |cluster: &Cluster| cluster.leader().is_some_and(|it| it.name != from && it.is_well());
    let cluster = members.until(limit.max(begun + TURN), "another host to lead", leads)?;
    let to = cluster.leader().map(|leader| leader.name.clone()).unwrap_or_default();
    let taken_over = begun.elapsed().as_secs_f64();
    if args.wait.wait == 0 {
        ui.out(&format!("{to} leads ({taken_over:.1} s)"));
        return Ok(());
    }
    ui.say(&format!("{to} leads ({taken_over:.1} s)"));
    let follows = |cluster: &Cluster| cluster.member(&from).is_some_and(Member::is_well);
    members.until(limit, &format!("{from} to follow {to}"), follows)?;
    ui.out(&format!("{to} leads, {from} follows it ({:.1} s)", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// A fresh copy for a replica.
fn reinit(ui: &Ui, open: &OpenLab, members: &mut Members<'_>, args: &HaRejoin) -> Result {
    let host = open.host(&args.host)?.name.clone();
    let begun = Instant::now();
    members.tell(&host, "POST", "/reinitialize", &json!({ "force": true }), ANSWER)?;
    if args.wait.wait > 0 {
        // It is still well for a moment.
        let limit = begun + Duration::from_secs(args.wait.wait);
        let moment = limit.min(begun + Duration::from_secs(20));
        let at_it = |cluster: &Cluster| cluster.member(&host).is_some_and(|member| !member.is_well());
        // One that is done within the turn is not seen at it.
        let _ = members.until(moment, &format!("{host} to begin"), at_it);
        let done = |cluster: &Cluster| cluster.member(&host).is_some_and(Member::is_well);
        members.until(limit, &format!("{host} to follow again"), done)?;
    }
    ui.out(&format!("{host} follows with a fresh copy ({:.1} s)", begun.elapsed().as_secs_f64()));
    Ok(())
}

/// Patroni keeps its hands off PostgreSQL, or not.
fn pause(ui: &Ui, members: &mut Members<'_>, on: bool, wait: HaWait) -> Result {
    let before = members.cluster()?;
    let Some(host) = before.leader().or(before.members.first()).map(|member| member.name.clone()) else {
        return Err(Error::failed("the cluster has no members"));
    };
    let body = json!({ "pause": if on { json!(true) } else { Value::Null } });
    members.tell(&host, "PATCH", "/config", &body, ANSWER)?;
    if wait.wait > 0 {
        let limit = Instant::now() + Duration::from_secs(wait.wait);
        members.until(limit, "the change to be known", |cluster| cluster.pause == on)?;
    }
    ui.out(match on {
        true => {
            "paused: Patroni leaves PostgreSQL alone and nobody takes over; end it with: pgprov ha resume"
        }
        false => "resumed: Patroni takes care of PostgreSQL again",
    });
    Ok(())
}

fn status(ui: &Ui, lab: &str, all: &Value) -> Result {
    let cluster = Cluster::deserialize(all).map_err(|error| Error::failed(format!("Patroni: {error}")))?;
    if ui.json() {
        let leader = cluster.leader().map(|leader| &leader.name);
        ui.out_json(&json!({ "lab": lab, "primary": leader, "paused": cluster.pause, "cluster": all }));
        return Ok(());
    }
    ui.out(&table(ui, &cluster));
    if cluster.pause {
        ui.out("\npaused: nobody takes over until `pgprov ha resume`");
    }
    Ok(())
}

fn table(ui: &Ui, cluster: &Cluster) -> String {
    let row = |member: &Member| {
        let timeline = member.timeline.map_or_else(|| "-".to_owned(), |timeline| timeline.to_string());
        let lag = match &member.lag {
            Value::Null => "-".to_owned(),
            Value::Number(bytes) => format!("{bytes} B"),
            other => other.as_str().unwrap_or("-").to_owned(),
        };
        let restart = if member.pending_restart { "due" } else { "-" };
        let texts = [&member.name, &member.role, &member.state, &timeline, &lag, restart];
        texts.map(ui::printable).to_vec()
    };
    let rows: Vec<Vec<String>> = cluster.members.iter().map(row).collect();
    ui::titled(ui, &["HOST", "ROLE", "STATE", "TIMELINE", "LAG", "RESTART"], &rows)
}

fn explain(ui: &Ui, cluster: &Cluster) -> Result {
    let lines = sentences(cluster);
    if ui.json() {
        ui.out_json(&json!(lines));
    } else {
        lines.iter().for_each(|line| ui.out(line));
    }
    Ok(())
}

/// What is the matter, a line each.
fn sentences(cluster: &Cluster) -> Vec<String> {
    let mut lines = Vec::new();
    if cluster.pause {
        lines.push("paused: nobody takes over; next: pgprov ha resume".to_owned());
    }
    if cluster.leader().is_none() {
        lines.push("nobody leads: see the logs of the hosts, pgprov logs HOST --role patroni".to_owned());
    }
    for member in &cluster.members {
        let Member { name, role, state, .. } = member;
        let next = match (member.is_well(), member.pending_restart) {
            (_, true) => "; settings wait for a restart, next: pgprov up".to_owned(),
            (true, false) => String::new(),
            (false, false) => format!("; when it stays so: pgprov ha reinit {name}"),
        };
        lines.push(ui::printable(&format!("{name} ({role}): {state}{next}")));
    }
    lines
}

/// Lines of `GET /history`: timeline, where it ended, why, when, and who led then.
fn history(ui: &Ui, all: &Value) -> Result {
    if ui.json() {
        ui.out_json(all);
        return Ok(());
    }
    let text = |value: &Value| match value {
        Value::String(text) => ui::printable(text),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    };
    let row = |line: &Value| (0..5).map(|index| text(&line[index])).collect::<Vec<_>>();
    let rows: Vec<Vec<String>> = all.as_array().into_iter().flatten().map(row).collect();
    if rows.is_empty() {
        ui.out("the first timeline goes on");
    } else {
        ui.out(&ui::titled(ui, &["TIMELINE", "ENDED AT", "BECAUSE", "WHEN", "NEW LEADER"], &rows));
    }
    Ok(())
}

/// The dynamic configuration; what pgprov notes in it is its own affair.
fn show(ui: &Ui, all: &Value) -> Result {
    let mut all = all.clone();
    if let Some(map) = all.as_object_mut() {
        map.remove("pgprov");
    }
    if ui.json() {
        ui.out_json(&all);
    } else {
        let text = serde_json::to_string_pretty(&all).unwrap_or_default();
        text.lines().for_each(|line| ui.out(&ui::printable(line)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::{Color, Format};

    fn cluster() -> Cluster {
        let all = json!({ "members": [
            { "name": "m", "role": "leader", "state": "running", "timeline": 3, "pending_restart": true },
            { "name": "s", "role": "sync_standby", "state": "streaming", "timeline": 3, "lag": 0 },
            { "name": "t", "role": "replica", "state": "start failed", "lag": "unknown" },
        ], "pause": true });
        Cluster::deserialize(all).unwrap()
    }

    #[test]
    fn members_in_a_table() {
        let ui = Ui::new(Format::Human, Color::Never, true, true);
        assert_eq!(
            table(&ui, &cluster()),
            "HOST  ROLE          STATE         TIMELINE  LAG      RESTART\n\
             m     leader        running       3         -        due\n\
             s     sync_standby  streaming     3         0 B      -\n\
             t     replica       start failed  -         unknown  -\n"
        );
    }

    #[test]
    fn what_is_the_matter_comes_with_what_helps() {
        assert_eq!(
            sentences(&cluster()),
            [
                "paused: nobody takes over; next: pgprov ha resume",
                "m (leader): running; settings wait for a restart, next: pgprov up",
                "s (sync_standby): streaming",
                "t (replica): start failed; when it stays so: pgprov ha reinit t",
            ]
        );
    }
}
