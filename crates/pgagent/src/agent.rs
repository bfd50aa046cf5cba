//! The loop: events in, actions out, one at a time.

mod arbiter;
mod data;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use pgagent_core::{Member, Site};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

use crate::{
    config::Config,
    control, link,
    link::{Heard, Identity, Link},
    log, metrics,
    metrics::Numbers,
    notify,
    store::Store,
};

/// What every agent has.
struct Common {
    config: Arc<Config>,
    identity: Identity,
    store: Store,
    messages: mpsc::Receiver<Heard>,
    calls: mpsc::Receiver<control::Call>,
    numbers: tokio::sync::watch::Sender<Arc<Numbers>>,
    links: Vec<(Member, Link)>,
    /// Whose settings are not these.
    differing: BTreeSet<Member>,
    /// SIGHUP: read the settings again.
    hangups: Signal,
    path: PathBuf,
}

impl Common {
    /// What this agent knew when it last stopped. `without` says in the log what it means to know nothing.
    fn remembered<D: serde::de::DeserializeOwned>(&self, without: &str) -> Result<Option<D>, String> {
        let durable = self.store.load().map_err(|error| format!("cannot read the state: {error}"))?;
        if durable.is_none() {
            log::line("warn", "state", &[("state", without)]);
        }
        Ok(durable)
    }

    /// The name of a data host.
    fn name(&self, site: Site) -> &str {
        &self.config.hosts[site.index()].name
    }

    /// Takes a message in, and notices whether its sender has other settings.
    fn hear(&mut self, heard: Heard) -> (Member, pgagent_core::Message) {
        let same = heard.settings == self.config.shared();
        let changed =
            if same { self.differing.remove(&heard.from) } else { self.differing.insert(heard.from) };
        if changed {
            let state = if same { "the same as here" } else { "others than here" };
            let host = &self.config.host(heard.from).name;
            log::line(if same { "info" } else { "warn" }, "settings", &[("of", host), ("are", state)]);
        }
        (heard.from, heard.message)
    }

    /// Hosts whose settings are not these.
    fn differing(&self) -> Vec<&str> {
        self.differing.iter().map(|member| self.config.host(*member).name.as_str()).collect()
    }

    /// Begins anew with the settings as they are now, in the same process: the port stays open as long as the lease, and
    /// whoever is back in time changes nothing. Settings that are wrong change nothing either.
    fn reload(&self) {
        if let Err(error) = Config::read(&self.path) {
            log::line("error", "reload", &[("refused", &error.to_string())]);
            return;
        }
        log::line("info", "reload", &[]);
        // By its name: the program may have been replaced too.
        let mut words = std::env::args_os();
        let program = words.next().unwrap_or_else(|| "pgagent".into());
        let error = std::os::unix::process::CommandExt::exec(std::process::Command::new(program).args(words));
        log::line("error", "reload", &[("failed", &error.to_string())]);
    }

    fn send(&self, to: Member, message: pgagent_core::Message) {
        if let Some((_, link)) = self.links.iter().find(|(member, _)| *member == to) {
            link.send(message);
        }
    }
}

/// Runs until told to stop.
pub async fn run(path: &Path) -> Result<(), String> {
    let config = Arc::new(Config::read(path).map_err(|error| error.to_string())?);
    let me = config.member().ok_or("this host is not a member")?;
    let identity = Identity::read(&config)?;
    let store = Store::new(&config.state);
    let (to_messages, messages) = mpsc::channel(64);
    link::listen(config.clone(), identity.clone(), to_messages).await?;
    let (to_calls, calls) = mpsc::channel(4);
    control::listen(&config.socket, to_calls)?;
    let (numbers, reader) = tokio::sync::watch::channel(Arc::new(Numbers::default()));
    if let Some(address) = config.metrics {
        metrics::listen(address, reader);
    }
    let all = [Member::Data(Site::One), Member::Data(Site::Two), Member::Arbiter];
    let others = all.into_iter().filter(|member| *member != me);
    let links = others.map(|to| (to, Link::open(config.clone(), identity.clone(), to))).collect();
    let timing = serde_json::to_string(&config.times()).unwrap_or_default();
    log::line("info", "start", &[("me", &config.me), ("cluster", &config.cluster), ("timing", &timing)]);
    notify::systemd("READY=1");
    let hangups = signal(SignalKind::hangup()).map_err(|error| error.to_string())?;
    let (differing, path) = (BTreeSet::new(), path.to_owned());
    let common =
        Common { config, identity, store, messages, calls, numbers, links, differing, hangups, path };
    match me {
        Member::Data(site) => data::run(common, site).await,
        Member::Arbiter => arbiter::run(common).await,
    }
}
