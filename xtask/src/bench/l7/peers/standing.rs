//! The peers that run: started when a row first wants them set up so, ended when no later row does.
//! One that cannot be started, or does not do the work, has no figures in its rows; the run goes on.

use super::{Kind, Peer, Site};
use crate::{bench::l7::setup::Setup, exec::step};

/// Peers of a run.
pub(in super::super) struct Standing {
    site: Site,
    kinds: Vec<Kind>,
    peers: Vec<Stand>,
    /// All that were ever started, for the record.
    pub(in super::super) started: Vec<Started>,
}

/// A peer set up in one way, or why there is none.
pub(in super::super) struct Stand {
    pub(in super::super) kind: Kind,
    pub(in super::super) setup: Setup,
    pub(in super::super) peer: Result<Peer, String>,
}

/// What a peer was told, and what it was found to do.
pub(in super::super) struct Started {
    pub(in super::super) kind: Kind,
    pub(in super::super) setup: Setup,
    /// Its file, or the beginning of a very long one.
    pub(in super::super) configuration: String,
    pub(in super::super) defers: bool,
}

/// Of a configuration with a hundred thousand routes this much is kept, bytes.
const RECORDED: usize = 16 << 10;

impl Standing {
    pub(in super::super) const fn new(site: Site, kinds: Vec<Kind>) -> Self {
        Self {
            site,
            kinds,
            peers: Vec::new(),
            started: Vec::new(),
        }
    }

    /// Peers of these kinds in these setups, one kind after the other, started if they do not run.
    pub(in super::super) fn of(
        &mut self,
        setups: &[Setup],
        takes: impl Fn(Kind) -> bool,
    ) -> Vec<&Stand> {
        let kinds: Vec<_> = self
            .kinds
            .iter()
            .copied()
            .filter(|kind| takes(*kind))
            .collect();
        let wanted: Vec<_> = kinds
            .iter()
            .flat_map(|kind| setups.iter().map(|setup| (*kind, *setup)))
            .collect();
        for (kind, setup) in &wanted {
            if self.find(*kind, setup).is_none() {
                let stand = self.start(*kind, setup);
                self.peers.push(stand);
            }
        }
        let found = wanted
            .iter()
            .filter_map(|(kind, setup)| self.find(*kind, setup));
        found.collect()
    }

    /// Ends all that are set up in none of these ways.
    pub(in super::super) fn keep(&mut self, setups: &[Setup]) {
        self.peers.retain(|stand| setups.contains(&stand.setup));
    }

    fn find(&self, kind: Kind, setup: &Setup) -> Option<&Stand> {
        self.peers
            .iter()
            .find(|stand| stand.kind == kind && stand.setup == *setup)
    }

    fn start(&mut self, kind: Kind, setup: &Setup) -> Stand {
        let peer = Peer::start(kind, &self.site, setup).and_then(|peer| {
            peer.check(&self.site.members, &self.site.tls)?;
            Ok(peer)
        });
        match &peer {
            Ok(peer) => {
                let mut configuration = peer.configuration.clone();
                if configuration.len() > RECORDED {
                    configuration.truncate(configuration.floor_char_boundary(RECORDED));
                    configuration += "\n... and so on\n";
                }
                self.started.push(Started {
                    kind,
                    setup: *setup,
                    configuration,
                    defers: peer.defers,
                });
            }
            Err(error) => {
                step(&format!(
                    "{} has no figures, {}: {error:#}",
                    kind.name(),
                    setup.label
                ));
            }
        }
        Stand {
            kind,
            setup: *setup,
            peer: peer.map_err(|error| format!("{error:#}")),
        }
    }
}
