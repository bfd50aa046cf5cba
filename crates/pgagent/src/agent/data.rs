//! The agent of a host with data.

use std::{sync::Arc, time::Duration};

use pgagent_core::{
    Durability, Member, Probe, Site, Time, explain,
    node::{self, Action, Command, Config, Durable, Event, Node, Op, Phase, Server},
};
use serde_json::{Value, json};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use super::Common;
use crate::{
    clock,
    control::{Call, Order, REST},
    gate, log,
    metrics::Numbers,
    notify, probe,
    probe::Class,
    server::Postgresql,
};

/// A disk with less than this, in MiB, is worth a word.
const SHORT: u64 = 256;

/// A clock that is set by more than this, in milliseconds, jumped.
const JUMP: u64 = 1_000;

/// What tasks beside the loop tell it.
enum News {
    Probed(Probe, Class, Duration),
    /// What a look that began after so many operations showed.
    Looked(u64, Result<Server, String>),
    Done(Op, Result<(), String>),
    /// Whether the server took a new connection.
    Greeted(bool),
    /// What an operator wants, after what it needs was done.
    Ordered(Command),
}

struct Agent {
    common: Common,
    config: Config,
    node: Node,
    server: Arc<Postgresql>,
    news: mpsc::Sender<News>,
    /// Operations so far: a look that began before the last one shows the past.
    operations: u64,
    looking: bool,
    /// Looks that failed in a row.
    blind: u32,
    /// When the server last took a new connection, or did not run; and whether it is being tried.
    greeted: Time,
    greeting: bool,
    /// [`clock::ahead`] when it was last looked at, and by how much it changed without a word about it so far.
    ahead: i64,
    jumped: i64,
    /// Until when this agent rests: see [`Order::Rest`].
    rests: Time,
    gate_failures: u64,
    fences: u64,
    transitions: u64,
    probes: probe::Watch,
    watchdog: notify::Watchdog,
    /// When numbers were last published, and whether this host was open then.
    published: (Time, bool),
    last_error: Option<String>,
}

/// Runs until told to stop.
pub async fn run(common: Common, site: Site) -> Result<(), String> {
    let durable: Option<Durable> =
        common.remembered("there is none: this host knows no record until it hears one")?;
    let config = Config { me: site, timing: common.config.times(), durability: common.config.durability };
    let server = Arc::new(Postgresql::new(common.config.clone(), site)?);
    gate::apply(&common.config, &gate::table(&common.config)).await?;
    let (news, mut incoming) = mpsc::channel(16);
    let peer = Member::Data(site.other());
    let probes =
        probe::watch(common.config.clone(), common.identity.clone(), peer, news.clone(), News::Probed);
    let (node, actions) = Node::start(durable, clock::now());
    let mut agent = Agent {
        common,
        config,
        node,
        server,
        news,
        operations: 0,
        looking: false,
        blind: 0,
        greeted: clock::now(),
        greeting: false,
        ahead: clock::ahead(),
        jumped: 0,
        rests: Time(0),
        gate_failures: 0,
        fences: 0,
        transitions: 0,
        probes,
        watchdog: notify::Watchdog::default(),
        published: (Time(0), false),
        last_error: None,
    };
    agent.act(actions).await?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| error.to_string())?;
    let heartbeat = config.timing.heartbeat();
    let mut turn = tokio::time::interval(heartbeat / 5);
    turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut next_look = clock::now();
    let mut settings = clock::settings();
    loop {
        tokio::select! {
            _ = turn.tick() => {
                agent.take(Event::Tick).await?;
                agent.notice_jump();
                if !agent.rests() {
                    if clock::now() >= next_look && agent.look() {
                        next_look = clock::now() + heartbeat / 2;
                    }
                    agent.tell_of_jump();
                    agent.greet();
                }
                agent.publish_when_due();
                agent.watchdog.feed(clock::now());
            }
            // Without that it is noticed at the next turn.
            Some(()) = settings.recv() => agent.notice_jump(),
            Some(heard) = agent.common.messages.recv() => {
                let (from, message) = agent.common.hear(heard);
                agent.take(Event::Received(from, message)).await?;
            }
            // Not while PostgreSQL's own tools work for this process.
            _ = agent.common.hangups.recv(), if agent.node.op.is_none() => agent.common.reload(),
            Some(news) = incoming.recv() => agent.hear(news).await?,
            Some(call) = agent.common.calls.recv() => agent.serve(call).await?,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    // The port stays open as long as the lease: who restarts the agent in time changes nothing.
    log::line("info", "stop", &[]);
    Ok(())
}

impl Agent {
    async fn take(&mut self, event: Event) -> Result<(), String> {
        let now = clock::now();
        let (node, actions) = node::step(&self.config, &self.node, now, event);
        self.node = node;
        self.probes.want(self.node.wants_probes(self.config.me));
        self.act(actions).await
    }

    /// In order: nothing is done because of a state before that is on the disk. What cannot be persisted ends the agent,
    /// and the kernel closes the port.
    async fn act(&mut self, actions: Vec<Action>) -> Result<(), String> {
        for action in actions {
            match action {
                Action::Persist(durable) => {
                    self.common
                        .store
                        .save(&durable)
                        .map_err(|error| format!("cannot save the state: {error}"))?;
                }
                Action::Gate(wanted) => self.gate(&wanted).await,
                Action::Send(to, message) => self.common.send(to, message),
                Action::Server(op) => self.operate(op),
                Action::Log(row) => {
                    self.transitions += 1;
                    let epoch = self.node.durable.epoch.to_string();
                    log::line(
                        "info",
                        "transition",
                        &[("to", row.to.name()), ("name", row.name), ("epoch", &epoch), ("why", row.why)],
                    );
                }
            }
        }
        Ok(())
    }

    async fn gate(&mut self, wanted: &pgagent_core::node::Gate) {
        let port = self.common.config.hosts[self.config.me.index()].postgres;
        let closes = wanted.clients.is_none();
        self.fences += u64::from(closes);
        if let Err(error) = gate::refresh(&self.common.config, port, wanted, clock::now()).await {
            self.gate_failures += 1;
            log::line("error", "gate", &[("error", &error)]);
        }
    }

    fn operate(&mut self, op: Op) {
        self.operations += 1;
        let (server, news) = (self.server.clone(), self.news.clone());
        log::line("info", "operation", &[("begin", &format!("{op:?}"))]);
        tokio::spawn(async move {
            let done = server.operate(op).await;
            let _ = news.send(News::Done(op, done)).await;
            if op == Op::Promote {
                server.checkpoint().await;
            }
        });
    }

    /// Looks at PostgreSQL, unless something is being done with it.
    fn look(&mut self) -> bool {
        if self.looking || self.node.op.is_some() {
            return false;
        }
        self.looking = true;
        let (server, news, operations) = (self.server.clone(), self.news.clone(), self.operations);
        tokio::spawn(async move {
            let seen = server.look().await;
            let _ = news.send(News::Looked(operations, seen)).await;
        });
        true
    }

    /// Nothing here goes by the clock that people read, but both ends of a stream do: they hear of each other at once, before one
    /// believes that it waited for as long as the clock jumped.
    fn notice_jump(&mut self) {
        let ahead = clock::ahead();
        let by = ahead - self.ahead;
        self.ahead = ahead;
        if by.unsigned_abs() < JUMP {
            return;
        }
        self.jumped += by;
        // A machine that was away has more to do in its first second than to let somebody in who wants nothing.
        self.greeted = clock::now();
        if self.open(clock::now()) {
            let server = self.server.clone();
            tokio::spawn(async move { server.stir().await });
        }
    }

    /// A line in the journal is more work for a host than all that its agent does in that second: it can wait.
    fn tell_of_jump(&mut self) {
        match std::mem::take(&mut self.jumped) {
            0 => {}
            by => log::line("info", "clock", &[("set_by_ms", &by.to_string())]),
        }
    }

    fn rests(&self) -> bool {
        clock::now() < self.rests
    }

    /// A server whose postmaster hangs goes on for those who are connected, and looks well from in here.
    fn greet(&mut self) {
        let now = clock::now();
        if self.node.up().is_none() {
            self.greeted = now;
        } else if !self.greeting && now.past(self.greeted, self.config.timing.heartbeat() * 2) {
            self.greeting = true;
            let (server, news) = (self.server.clone(), self.news.clone());
            tokio::spawn(async move {
                let greeted = server.greets().await;
                let _ = news.send(News::Greeted(greeted)).await;
            });
        }
    }

    /// Nobody could connect for four promote times: only a new start helps.
    fn greeted(&mut self, greeted: bool) {
        self.greeting = false;
        let now = clock::now();
        if greeted {
            self.greeted = now;
        } else if self.node.up().is_some() && now.past(self.greeted, self.config.timing.promote() * 4) {
            self.greeted = now;
            log::line(
                "error",
                "server",
                &[("hangs", "it takes no connections: it is killed and started again")],
            );
            let server = self.server.clone();
            tokio::spawn(async move {
                if let Err(error) = server.kill().await {
                    log::line("error", "server", &[("cannot be killed", &error)]);
                }
            });
        }
    }

    async fn hear(&mut self, news: News) -> Result<(), String> {
        match news {
            News::Probed(probe, class, took) => {
                self.probes.hear(class, took);
                self.take(Event::Probed(probe)).await
            }
            News::Looked(operations, seen) => {
                self.looking = false;
                if operations != self.operations {
                    return Ok(());
                }
                match seen {
                    Ok(server) => {
                        self.blind = 0;
                        self.take(Event::Observed(server)).await
                    }
                    Err(error) => {
                        self.blind += 1;
                        if self.blind == 1 {
                            log::line("warn", "look", &[("error", &error)]);
                        }
                        self.last_error = Some(error);
                        // A server that cannot be looked at is not one to decide by.
                        if self.blind >= 4 { self.take(Event::Observed(Server::Busy)).await } else { Ok(()) }
                    }
                }
            }
            News::Greeted(greeted) => {
                self.greeted(greeted);
                Ok(())
            }
            News::Ordered(command) => self.take(Event::Command(command)).await,
            News::Done(op, Ok(())) => {
                log::line("info", "operation", &[("end", &format!("{op:?}"))]);
                // Counts as running until it was looked at.
                self.operations += 1;
                self.looking = true;
                let (server, news, operations) = (self.server.clone(), self.news.clone(), self.operations);
                tokio::spawn(async move {
                    let seen = server.look().await;
                    let seen = seen.or(Ok(Server::Busy));
                    let _ = news.send(News::Looked(operations, seen)).await;
                });
                Ok(())
            }
            News::Done(op, Err(error)) => {
                log::line("error", "operation", &[("failed", &format!("{op:?}")), ("error", &error)]);
                self.last_error = Some(error);
                self.operations += 1;
                self.take(Event::Failed(op)).await
            }
        }
    }

    async fn serve(&mut self, (order, answer): Call) -> Result<(), String> {
        let value = match order {
            Order::Status => self.status(),
            Order::Rest => {
                let now = clock::now();
                self.rests = now + REST;
                self.probes.rest(self.rests);
                // What would be due soon is done now.
                self.watchdog.feed_now(now);
                let actions = self.node.beat_ahead(&self.config, now);
                self.act(actions).await?;
                if self.open(now) {
                    let server = self.server.clone();
                    tokio::spawn(async move { server.get_ready_to_stir().await });
                }
                json!({ "ok": true })
            }
            // Its record says for ever that the standby has everything, so it may never be without data.
            Order::Node(Command::Rejoin) if self.config.durability == Durability::MaxProtection => {
                json!({ "error": "with max-protection no standby is copied anew: switch to max-availability for that" })
            }
            Order::Node(Command::Rejoin) if self.node.phase != Phase::Standby => {
                json!({ "error": format!("only a standby is copied anew; this host is {}", self.node.phase.name()) })
            }
            // What is dirty is written while the port is still open: the shutdown that follows has only seconds.
            Order::Node(Command::Switchover) => {
                log::line("info", "command", &[("command", "Switchover")]);
                let (server, news) = (self.server.clone(), self.news.clone());
                tokio::spawn(async move {
                    server.checkpoint().await;
                    let _ = news.send(News::Ordered(Command::Switchover)).await;
                });
                json!({ "ok": true })
            }
            Order::Node(command) => {
                log::line("info", "command", &[("command", &format!("{command:?}"))]);
                self.take(Event::Command(command)).await?;
                json!({ "ok": true })
            }
            Order::Adopt | Order::Replace => json!({ "error": "this host is not the arbiter" }),
        };
        let _ = answer.send(value);
        Ok(())
    }

    fn open(&self, now: Time) -> bool {
        let writable = matches!(&self.node.seen, Some(Server::Up(up)) if !up.recovery);
        writable && self.node.gate.is_some_and(|gate| gate.clients.is_some_and(|until| until > now))
    }

    /// What an operator should know before the disk is full: then neither PostgreSQL nor this agent can go on.
    fn short_of_space(&self) -> String {
        match self.server.free().map(|free| free >> 20) {
            Some(left) if left < SHORT => format!("; the disk of its data has only {left} MiB left"),
            _ => String::new(),
        }
    }

    fn status(&self) -> Value {
        let now = clock::now();
        let node = &self.node;
        let explanation = explain::node(&self.config, node, now);
        let left = |until: Option<Time>| until.map_or(0, |until| until.since(now).as_millis());
        let ago = |at: Time| now.since(at).as_millis();
        let (peer, arbiter) = (self.common.name(self.config.me.other()), &self.common.config.arbiter.name);
        json!({
            "me": self.common.config.me,
            "phase": node.phase.name(),
            "why": explanation.why + &self.short_of_space(),
            "next": explanation.next,
            "open": self.open(now),
            "epoch": node.durable.epoch,
            "record": node.durable.record,
            "primary": node.record().map(|record| self.common.name(record.primary)),
            "role": node.durable.role,
            "maintenance": node.durable.maintenance,
            "lease_ms": { peer: left(node.peer.lease), arbiter: left(node.arbiter.lease) },
            "heard_ms_ago": { peer: ago(node.peer.heard), arbiter: ago(node.arbiter.heard) },
            "probe": { peer: self.probes.last.map(|(class, _)| class.name()) },
            "server": node.seen.as_ref().map(|seen| format!("{seen:?}")),
            "operation": node.op,
            "refused": node.refused.map(|(refusal, _)| refusal.why()),
            "last_error": self.last_error,
            "timing": self.config.timing,
            "other_settings": self.common.differing(),
            "disk_free_bytes": self.server.free(),
        })
    }

    /// Once a heartbeat, and at once when clients may write here or may not any more: thirty lines of text are more than all the rest of a turn.
    fn publish_when_due(&mut self) {
        let now = clock::now();
        let open = self.open(now);
        if open != self.published.1 || now.past(self.published.0, self.config.timing.heartbeat()) {
            self.published = (now, open);
            self.publish(now);
        }
    }

    fn publish(&self, now: Time) {
        let node = &self.node;
        let mut numbers = Numbers::of(self.open(now));
        for phase in Phase::ALL {
            numbers.add("phase", &format!("phase=\"{}\"", phase.name()), u8::from(phase == node.phase));
        }
        let record = node.record();
        numbers.add("epoch", "", record.map_or(0, |record| record.epoch));
        numbers.add("record_version", "", record.map_or(0, |record| record.stamp.version));
        numbers.add("in_sync", "", u8::from(record.is_some_and(|record| record.in_sync)));
        numbers.add("confirmed", "", u8::from(record.is_some_and(|record| record.confirmed)));
        numbers.add("lossy_promotions_total", "", record.map_or(0, |record| record.lossy));
        numbers.add("gate_open", "", u8::from(numbers.open));
        for (name, contact) in [("peer", &node.peer), ("arbiter", &node.arbiter)] {
            let left = contact.lease.map_or(0.0, |until| until.since(now).as_secs_f64());
            numbers.add("lease_remaining_seconds", &format!("from=\"{name}\""), left);
            numbers.add(
                "last_seen_seconds",
                &format!("of=\"{name}\""),
                now.since(contact.heard).as_secs_f64(),
            );
        }
        if let Some((class, took)) = self.probes.last {
            numbers.add("probe_result", &format!("class=\"{}\"", class.name()), 1);
            numbers.add("probe_seconds", "", took.as_secs_f64());
        }
        numbers.add("other_settings", "", self.common.differing.len());
        if let Some(free) = self.server.free() {
            numbers.add("disk_free_bytes", "", free);
        }
        numbers.add("fence_total", "", self.fences);
        numbers.add("gate_failures_total", "", self.gate_failures);
        numbers.add("transitions_total", "", self.transitions);
        numbers.add("phase_since_seconds", "", now.since(node.since).as_secs_f64());
        let _ = self.common.numbers.send(Arc::new(numbers));
    }
}
