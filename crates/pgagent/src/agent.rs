//! The loop: events in, actions out, one at a time.

mod arbiter;
mod data;

use std::{path::Path, sync::Arc};

use pgagent_core::{Member, Site};
use tokio::sync::mpsc;

use crate::{
    config::Config,
    control, link,
    link::{Identity, Link},
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
    messages: mpsc::Receiver<(Member, pgagent_core::Message)>,
    calls: mpsc::Receiver<control::Call>,
    numbers: tokio::sync::watch::Sender<Arc<Numbers>>,
    links: Vec<(Member, Link)>,
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
    let common = Common { config, identity, store, messages, calls, numbers, links };
    match me {
        Member::Data(site) => data::run(common, site).await,
        Member::Arbiter => arbiter::run(common).await,
    }
}
