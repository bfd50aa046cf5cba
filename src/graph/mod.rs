//! Drawings of a lab: text in, text out.
//!
//! [`mermaid`] gives a flowchart for Markdown, [`svg`] a picture that stands alone. Both show the same [`Picture`], and
//! neither says anything by colour only: every state has a sign and a word, every kind of replication its own line.

mod layout;
mod mermaid;
mod svg;
#[cfg(test)]
mod tests;

pub use mermaid::mermaid;
pub use svg::svg;

/// What is drawn.
#[derive(Clone, Debug, Default)]
pub struct Picture {
    /// The lab's name.
    pub lab: String,
    /// Its hosts, in the order of the topology.
    pub hosts: Vec<Host>,
    /// Who follows whom.
    pub replication: Vec<Replication>,
    /// The network of PostgreSQL, agents and clients.
    pub data: Network,
    /// The network of pgprov and of metrics.
    pub mgmt: Network,
    /// The faults that are in force, one sentence each.
    pub faults: Vec<String>,
}

/// A host.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Its name, unique in the lab.
    pub name: String,
    /// Its roles; the first one names it when it runs no PostgreSQL.
    pub roles: Vec<String>,
    /// What its PostgreSQL is at the moment, if it is to have one.
    pub server: Option<Server>,
    /// How it is, as a sign.
    pub health: Health,
    /// How it is, in a word or two: `running`, `booting`, `off`, ...
    pub state: String,
    /// More about it, such as the version of PostgreSQL; may be empty.
    pub detail: String,
    /// Its address on the data network; empty when it has none.
    pub data: String,
    /// Its address on the management network; empty when it has none.
    pub mgmt: String,
    /// Whether a fault cuts it off the data network.
    pub cut: bool,
}

/// What a PostgreSQL server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Takes writes.
    Primary,
    /// Replays the WAL of another server.
    Standby,
    /// Not known, as it does not answer.
    Unknown,
}

/// How a host is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// It does what it is for.
    Good,
    /// It is on its way, or works in part.
    Warning,
    /// It does not do what it is for.
    Bad,
    /// It is not there, or nobody asked.
    #[default]
    Unknown,
}

/// One server follows another.
#[derive(Clone, Debug)]
pub struct Replication {
    /// The name of the host that sends.
    pub from: String,
    /// The name of the host that receives.
    pub to: String,
    /// How.
    pub mode: Mode,
    /// The replication slot, or the subscription; may be empty.
    pub slot: String,
    /// How far the receiver is behind, with its unit; may be empty.
    pub lag: String,
    /// Whether it is going on.
    pub streaming: bool,
}

/// How WAL, or what is in it, gets to the other server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A commit waits for the standby.
    Synchronous,
    /// A commit does not wait.
    Asynchronous,
    /// Tables instead of WAL.
    Logical,
}

/// A network of the lab.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Its name.
    pub name: String,
    /// Its subnet, as `10.77.10.0/24`.
    pub subnet: String,
}

impl Mode {
    fn word(self) -> &'static str {
        match self {
            Self::Synchronous => "synchronous",
            Self::Asynchronous => "asynchronous",
            Self::Logical => "logical",
        }
    }
}

impl Health {
    /// A sign that differs by shape.
    fn sign(self) -> &'static str {
        match self {
            Self::Good => "●",
            Self::Warning => "▲",
            Self::Bad => "✕",
            Self::Unknown => "○",
        }
    }
}

impl Host {
    /// What it is, in one word.
    fn word(&self) -> &str {
        match self.server {
            Some(Server::Primary) => "primary",
            Some(Server::Standby) => "standby",
            Some(Server::Unknown) | None => self.roles.first().map_or("host", String::as_str),
        }
    }

    /// Its roles as a list.
    fn role_list(&self) -> String {
        self.roles.join(", ")
    }
}

impl Replication {
    /// What to write beside the arrow, a line each.
    fn label(&self) -> Vec<String> {
        let mut lines = vec![self.mode.word().to_owned()];
        if !self.streaming {
            lines.push("✕ not streaming".to_owned());
        }
        if !self.slot.is_empty() {
            lines.push(format!("slot {}", self.slot));
        }
        if !self.lag.is_empty() {
            lines.push(format!("lag {}", self.lag));
        }
        lines
    }
}
