//! The arbiter: one durable record, changed by compare-and-swap, and the leases it grants.

use serde::{Deserialize, Serialize};

use crate::{
    Answer, Ask, Beat, Claim, Lsn, Message, Probe, Record, Refusal, Reply, Request, Site, Stamp, Time,
    Timing, Want,
};

/// What lies on the arbiter's disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Durable {
    /// How many times an arbiter of this cluster began without memory, as far as it knows.
    pub incarnation: u64,
    /// A random number of the run that began without memory.
    pub token: u64,
    /// `None`: no memory, nothing is granted.
    pub record: Option<Record>,
}

/// What the arbiter knows of a data host. Lost with the process.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Contact {
    /// When its last beat came, or when the arbiter started.
    pub heard: Time,
    /// Session and time of its newest beat: older ones that arrive later mean nothing.
    pub order: (u64, Time),
    /// From when a lease may run that was granted to it; `None` when its port is known to be closed.
    pub granted: Option<Time>,
    /// Its times.
    pub timing: Option<Timing>,
    /// The last try to reach its PostgreSQL.
    pub probe: Option<Probe>,
    /// What it told an arbiter without memory.
    pub claim: Option<Claim>,
    /// The end of its log.
    pub wal: Lsn,
}

/// The arbiter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Arbiter {
    /// On disk.
    pub durable: Durable,
    /// By [`Site::index`].
    pub contacts: [Contact; 2],
}

/// What happens to an arbiter.
#[expect(clippy::large_enum_variant, reason = "one event exists at a time")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// A message came.
    Received(Site, Message),
    /// A try to reach a host's PostgreSQL ended.
    Probed(Site, Probe),
    /// An operator wants a record made from the claims there are, though not both hosts have answered.
    Adopt,
    /// An operator wants the record made anew from what both hosts know.
    Replace,
}

/// What an arbiter does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Write to disk and wait until it is there.
    Persist(Durable),
    /// Send.
    Send(Site, Message),
    /// Tell the log: the record changed, or a request was refused.
    Log(Note),
}

/// A line of the arbiter's log.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Note {
    /// The record changed because of a request.
    Granted(Request, Record),
    /// A request was refused.
    Refused(Request, Refusal),
    /// Someone knows a newer record than the arbiter does.
    LostMemory(Stamp),
    /// The claims made a record.
    Adopted(Record),
    /// An operator had the record forgotten.
    Replaced,
}

impl Arbiter {
    /// An arbiter that starts, with what it finds on its disk. `token` is random.
    ///
    /// A lease that an earlier run granted may still be in force, so both hosts count as holding one from `now`.
    pub fn start(durable: Option<Durable>, token: u64, now: Time) -> (Arbiter, Vec<Action>) {
        let remembered = durable.is_some();
        let durable = durable.unwrap_or(Durable { incarnation: 1, token, record: None });
        let contact = Contact {
            heard: now,
            order: (0, Time(0)),
            granted: Some(now),
            timing: None,
            probe: None,
            claim: None,
            wal: Lsn(0),
        };
        let actions = if remembered { Vec::new() } else { vec![Action::Persist(durable.clone())] };
        (Arbiter { durable, contacts: [contact.clone(), contact] }, actions)
    }

    /// The record, if there is memory.
    pub fn record(&self) -> Option<&Record> {
        self.durable.record.as_ref()
    }

    /// Whether anything goes by what a try to reach that host's PostgreSQL shows: only a promotion of the other one does.
    pub fn wants_probes(&self, site: Site) -> bool {
        self.record().is_some_and(|record| record.in_sync && record.primary == site)
    }
}

/// The next state, and what to do in that order.
pub fn step(timing: &Timing, state: &Arbiter, now: Time, event: Event) -> (Arbiter, Vec<Action>) {
    let mut next = state.clone();
    let mut actions = Vec::new();
    match event {
        Event::Received(from, Message::Beat(beat)) => next.beat(timing, now, from, &beat, &mut actions),
        Event::Received(from, Message::Request(request)) if request.from() == from => {
            next.request(timing, now, request, &mut actions);
        }
        // Data hosts answer each other, not the arbiter.
        Event::Received(_, Message::Request(_) | Message::Answer(_) | Message::Reply(_)) => {}
        Event::Probed(site, probe) => next.contacts[site.index()].probe = Some(probe),
        Event::Adopt => next.adopt(1, &mut actions),
        Event::Replace => {
            next.forget(next.durable.incarnation);
            actions.push(Action::Log(Note::Replaced));
        }
    }
    if next.durable != state.durable {
        actions.insert(0, Action::Persist(next.durable.clone()));
    }
    (next, actions)
}

impl Arbiter {
    fn beat(&mut self, timing: &Timing, now: Time, from: Site, beat: &Beat, actions: &mut Vec<Action>) {
        let order = (beat.session, beat.sent);
        if order <= self.contacts[from.index()].order {
            return;
        }
        self.remember(beat, actions);
        let contact = &mut self.contacts[from.index()];
        contact.order = order;
        contact.heard = now;
        contact.timing = Some(beat.timing);
        contact.wal = beat.wal;
        if let (None, Some(claim)) = (&self.durable.record, &beat.claim)
            && (claim.incarnation, claim.token) == (self.durable.incarnation, self.durable.token)
        {
            contact.claim = Some(claim.clone());
            self.adopt(2, actions);
        }
        let primary =
            self.record().is_some_and(|record| record.primary == from && record.epoch == beat.epoch);
        let lease = primary && beat.want == Want::Lease;
        match beat.want {
            Want::Lease if lease => self.contacts[from.index()].granted = Some(now),
            Want::Closed => self.contacts[from.index()].granted = None,
            Want::Lease | Want::Nothing => {}
        }
        let answer = Answer {
            session: beat.session,
            sent: beat.sent,
            lease,
            incarnation: self.durable.incarnation,
            token: self.durable.record.is_none().then_some(self.durable.token),
            record: self.durable.record.clone(),
            wal: Lsn(0),
            timing: *timing,
        };
        actions.push(Action::Send(from, Message::Answer(answer)));
    }

    /// A data host that knows of a later record, or incarnation, proves that this disk was lost or restored: whatever is
    /// on it is forgotten, under an incarnation that nobody has seen.
    fn remember(&mut self, beat: &Beat, actions: &mut Vec<Action>) {
        let theirs = beat.record.as_ref().map(|record| record.stamp).unwrap_or_default();
        let ours = &self.durable;
        let lost = match &ours.record {
            Some(record) => theirs > record.stamp || beat.incarnation > ours.incarnation,
            None => theirs.incarnation >= ours.incarnation || beat.incarnation > ours.incarnation,
        };
        if !lost {
            return;
        }
        self.forget(ours.incarnation.max(theirs.incarnation).max(beat.incarnation));
        actions.push(Action::Log(Note::LostMemory(theirs)));
    }

    /// Begins without memory, under the incarnation after `highest`.
    fn forget(&mut self, highest: u64) {
        self.durable.incarnation = highest + 1;
        self.durable.record = None;
        for contact in &mut self.contacts {
            contact.claim = None;
        }
    }

    /// Makes a record when at least `enough` hosts have claimed. SOLO is the safe side: it forbids promotion.
    fn adopt(&mut self, enough: usize, actions: &mut Vec<Action>) {
        let claims: Vec<(Site, &Claim)> = Site::ALL
            .into_iter()
            .filter_map(|site| Some((site, self.contacts[site.index()].claim.as_ref()?)))
            .collect();
        if self.durable.record.is_some() || claims.len() < enough {
            return;
        }
        let Some((_, first)) = claims.first() else { return };
        if claims.iter().any(|(_, claim)| claim.system != first.system) {
            return;
        }
        let newest =
            claims.iter().filter_map(|(_, claim)| claim.record.clone()).max_by_key(|record| record.stamp);
        let primaries: Vec<_> = claims.iter().filter(|(_, claim)| !claim.standby).collect();
        let record = match (newest, primaries.as_slice()) {
            (Some(newest), _) if newest.system != first.system => return,
            (Some(newest), _) => newest,
            // A cluster that never had an arbiter, and says plainly who is primary.
            (None, [(primary, claim)]) => Record {
                stamp: Stamp::default(),
                system: claim.system,
                epoch: 1,
                primary: *primary,
                in_sync: false,
                confirmed: true,
                floor: Lsn(0),
                timeline: claim.timeline,
                lossy: 0,
                by: None,
            },
            (None, _) => return,
        };
        let stamp = Stamp { incarnation: self.durable.incarnation, version: record.stamp.version + 1 };
        let record = Record { stamp, in_sync: false, by: None, ..record };
        actions.push(Action::Log(Note::Adopted(record.clone())));
        self.durable.record = Some(record);
    }

    fn request(&mut self, timing: &Timing, now: Time, request: Request, actions: &mut Vec<Action>) {
        let done = self.record().is_some_and(|record| record.by == Some(request.nonce));
        let refused = if done {
            // The answer was lost and the request came again.
            None
        } else {
            match self.decide(timing, now, &request) {
                Ok(record) => {
                    actions.push(Action::Log(Note::Granted(request.clone(), record.clone())));
                    self.durable.record = Some(record);
                    None
                }
                Err(refusal) => {
                    actions.push(Action::Log(Note::Refused(request.clone(), refusal)));
                    Some(refusal)
                }
            }
        };
        let reply = Reply { nonce: request.nonce, refused, record: self.durable.record.clone() };
        actions.push(Action::Send(request.from(), Message::Reply(reply)));
    }

    /// The record as a request changes it. The conditions are the rules of docs/failover.md, one line each.
    fn decide(&self, timing: &Timing, now: Time, request: &Request) -> Result<Record, Refusal> {
        let from = request.from();
        let old = self.record().ok_or(Refusal::NoMemory)?;
        demand(request.stamp == old.stamp, Refusal::Stale)?;
        let stamp = Stamp { version: old.stamp.version + 1, ..old.stamp };
        let new = Record { stamp, by: Some(request.nonce), ..old.clone() };
        let promoted = |lossy| Record {
            epoch: old.epoch + 1,
            primary: from,
            in_sync: false,
            confirmed: false,
            lossy,
            ..new.clone()
        };
        match request.ask {
            Ask::Solo => {
                demand(old.primary == from, Refusal::WrongRole)?;
                demand(old.confirmed, Refusal::Unconfirmed)?;
                Ok(Record { in_sync: false, ..new })
            }
            Ask::Sync { wal } => {
                demand(old.primary == from, Refusal::WrongRole)?;
                demand(old.confirmed, Refusal::Unconfirmed)?;
                Ok(Record { in_sync: true, floor: old.floor.max(wal), ..new })
            }
            Ask::Promote { timeline, received } => {
                demand(old.primary != from, Refusal::WrongRole)?;
                demand(old.confirmed, Refusal::Unconfirmed)?;
                demand(old.in_sync, Refusal::NotInSync)?;
                demand(received >= old.floor && timeline == old.timeline, Refusal::Behind)?;
                self.primary_is_lost(timing, now, old.primary)?;
                Ok(promoted(old.lossy))
            }
            Ask::Confirm { timeline } => {
                demand(old.primary == from, Refusal::WrongRole)?;
                demand(!old.confirmed, Refusal::Confirmed)?;
                self.no_lease_runs(timing, now, from.other())?;
                Ok(Record { confirmed: true, timeline, ..new })
            }
            Ask::Revoke { epoch } => {
                demand(old.primary != from && epoch + 1 == old.epoch, Refusal::WrongRole)?;
                demand(!old.confirmed, Refusal::Confirmed)?;
                let silent = now.past(self.contacts[old.primary.index()].heard, timing.promote());
                demand(silent, Refusal::PeerAlive)?;
                // Its predecessor was confirmed, and nothing was acknowledged since.
                Ok(Record { confirmed: true, ..promoted(old.lossy) })
            }
            Ask::Handover => {
                demand(old.primary == from, Refusal::WrongRole)?;
                demand(old.confirmed, Refusal::Unconfirmed)?;
                demand(old.in_sync, Refusal::NotInSync)?;
                Ok(Record { primary: from.other(), ..promoted(old.lossy) })
            }
            Ask::Force => Ok(promoted(old.lossy + 1)),
        }
    }

    fn primary_is_lost(&self, timing: &Timing, now: Time, primary: Site) -> Result<(), Refusal> {
        let contact = &self.contacts[primary.index()];
        let fits = contact.timing.is_none_or(|theirs| Timing::fits(theirs.fence, timing.promote));
        demand(fits, Refusal::Timing)?;
        self.no_lease_runs(timing, now, primary)?;
        demand(contact.probe.is_some_and(|probe| probe.says_dead(now, timing)), Refusal::StillAlive)
    }

    fn no_lease_runs(&self, timing: &Timing, now: Time, site: Site) -> Result<(), Refusal> {
        let over = self.contacts[site.index()].granted.is_none_or(|at| now.past(at, timing.promote()));
        demand(over, Refusal::LeaseRuns)
    }
}

fn demand(condition: bool, refusal: Refusal) -> Result<(), Refusal> {
    if condition { Ok(()) } else { Err(refusal) }
}
