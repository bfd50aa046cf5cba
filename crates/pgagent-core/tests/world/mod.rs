//! PostgreSQL, as far as the machine can tell: a log of marks, and what operations do to it.

use pgagent_core::{
    Lsn, Site,
    node::{Op, Receiver, Server, Standby, Up},
};

/// An entry of the log: a transaction by its number, or the beginning of a timeline.
pub type Mark = u16;
/// Added to a timeline's number.
pub const TIMELINE: Mark = 60_000;

/// One server with its data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pg {
    pub up: bool,
    pub recovery: bool,
    pub clean: bool,
    pub started: u64,
    pub timeline: u32,
    pub sync: bool,
    pub follow: bool,
    pub wal: Vec<Mark>,
    /// How long the log was when the server started.
    pub start: usize,
    /// Commits that wait for the standby, as they saw `synchronous_standby_names` when they looked: `true` waits.
    pub waiting: Vec<(Mark, bool)>,
}

impl Pg {
    pub fn primary() -> Pg {
        Pg {
            up: true,
            recovery: false,
            clean: false,
            started: 1,
            timeline: 1,
            sync: false,
            follow: false,
            wal: vec![TIMELINE + 1],
            start: 1,
            waiting: Vec::new(),
        }
    }

    pub fn standby() -> Pg {
        Pg { recovery: true, follow: true, ..Pg::primary() }
    }

    pub fn writable(&self) -> bool {
        self.up && !self.recovery
    }

    /// The power goes, or the processes are killed.
    pub fn crash(&mut self) {
        self.up = false;
        self.clean = false;
        self.waiting.clear();
    }

    /// Writes a transaction, whose client waits for an acknowledgement.
    pub fn write(&mut self, mark: Mark) {
        self.wal.push(mark);
        self.waiting.push((mark, self.sync));
    }
}

/// Whether `standby` streams from `primary`, if there is a way.
pub fn streams(primary: &Pg, standby: &Pg) -> bool {
    primary.writable()
        && standby.up
        && standby.recovery
        && standby.follow
        && primary.wal.starts_with(&standby.wal)
}

/// The standby receives and flushes one mark.
pub fn replicate(pg: &mut [Pg; 2], to: Site) {
    let (mark, timeline) = {
        let primary = &pg[to.other().index()];
        (primary.wal.get(pg[to.index()].wal.len()).copied(), primary.timeline)
    };
    if let Some(mark) = mark {
        let standby = &mut pg[to.index()];
        standby.wal.push(mark);
        standby.timeline = timeline;
    }
}

/// The server of a host as its agent sees it. `link`: the log can stream between the hosts.
pub fn look(pg: &[Pg; 2], site: Site, link: bool) -> Server {
    let (own, other) = (&pg[site.index()], &pg[site.other().index()]);
    let wal = Lsn(own.wal.len() as u64);
    if !own.up {
        return Server::Down {
            standby: own.recovery,
            clean: own.clean,
            system: 1,
            timeline: own.timeline,
            wal,
        };
    }
    let receiver = match own.follow {
        false => Receiver::Off,
        true if link && streams(other, own) => Receiver::Streaming,
        true => Receiver::Waiting,
    };
    let flush = Lsn(other.wal.len() as u64);
    let standby = (link && streams(own, other)).then_some(Standby { sync: own.sync, flush, replay: flush });
    Server::Up(Up {
        system: 1,
        started: own.started,
        recovery: own.recovery,
        timeline: own.timeline,
        sync: own.sync,
        wal,
        receiver,
        standby,
    })
}

/// Does what an agent wants done. `false`: it failed.
pub fn operate(pg: &mut [Pg; 2], site: Site, op: Op, link: bool) -> bool {
    let other = pg[site.other().index()].clone();
    let own = &mut pg[site.index()];
    match op {
        Op::Start => start(own),
        Op::Stop => {
            // A clean shutdown sends everything before it ends.
            let clean = own.up && link && streams(own, &other);
            own.crash();
            own.clean = clean;
            if clean {
                pg[site.other().index()].wal = pg[site.index()].wal.clone();
            }
        }
        Op::SetSync(on) => {
            own.sync = on;
            if !on {
                own.waiting.iter_mut().for_each(|(_, waits)| *waits = false);
            }
        }
        Op::StopReceiver => own.follow = false,
        Op::Follow => {
            own.follow = true;
            if !own.up {
                own.recovery = true;
            }
        }
        Op::Promote if own.up && own.recovery => {
            own.timeline += 1;
            own.recovery = false;
            own.follow = false;
            own.wal.push(TIMELINE + Mark::try_from(own.timeline).unwrap_or(Mark::MAX - TIMELINE));
        }
        Op::Promote => return own.writable(),
        Op::Rejoin | Op::Copy => {
            if !(link && other.writable()) {
                return false;
            }
            own.crash();
            (own.wal, own.timeline, own.sync) = (other.wal, other.timeline, other.sync);
            (own.recovery, own.follow) = (true, true);
            start(own);
        }
    }
    true
}

fn start(own: &mut Pg) {
    if !own.up {
        own.up = true;
        own.clean = false;
        // Only whether it changed is looked at.
        own.started = (own.started + 1) % 16;
        own.start = own.wal.len();
    }
}
