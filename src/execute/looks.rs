//! What is asked of hosts as soon as it holds, while others are still at work.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use pgplan::lab::Lab;
use tokio::task::JoinSet;

use crate::observe::Answer;

/// Asks a host; nothing when that failed.
pub type Look<T> = Arc<dyn Fn(&str, &Answer) -> Option<T> + Send + Sync>;

/// Looks at hosts that have ended, once all have that stream from each other: what one of those says depends on the others.
pub(super) struct Looks<T> {
    look: Option<Look<T>>,
    /// Hosts that stream, and are still at work.
    streaming: BTreeSet<String>,
    under_way: JoinSet<(String, Answer, Option<T>)>,
}

impl<T: Send + 'static> Looks<T> {
    pub(super) fn new(look: Option<Look<T>>, lab: &Lab, work: &BTreeSet<&str>) -> Self {
        let streams = lab.hosts.iter().filter(|host| host.follows.is_some() || !host.followers.is_empty());
        let names = streams.map(|host| host.name.clone()).filter(|name| work.contains(name.as_str()));
        Self { look, streaming: names.collect(), under_way: JoinSet::new() }
    }

    /// That host is no longer at work.
    pub(super) fn ended(&mut self, host: &str) {
        self.streaming.remove(host);
    }

    /// Takes the hosts that can be looked at, and looks.
    pub(super) fn begin(&mut self, answers: &mut BTreeMap<String, Answer>) {
        let Some(look) = self.look.as_ref().filter(|_| self.streaming.is_empty()) else { return };
        while let Some((host, answer)) = answers.pop_first() {
            let look = Arc::clone(look);
            self.under_way.spawn_blocking(move || {
                let seen = look(&host, &answer);
                (host, answer, seen)
            });
        }
    }

    /// Gives the hosts back, and what was seen.
    pub(super) async fn end(mut self, answers: &mut BTreeMap<String, Answer>) -> BTreeMap<String, T> {
        let mut all = BTreeMap::new();
        while let Some(looked) = self.under_way.join_next().await {
            // One whose thread panicked is asked anew by whoever wants to know.
            let Ok((host, answer, seen)) = looked else { continue };
            all.extend(seen.map(|seen| (host.clone(), seen)));
            answers.insert(host, answer);
        }
        all
    }
}
