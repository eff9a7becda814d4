//! Interfaces, routes and neighbours as they come and go: the program follows the interfaces that
//! the configuration names, and what is wrong with one of them is said, once, until it is right.

use std::collections::BTreeMap;

use super::{
    Dataplane, DataplaneError, Facts,
    diff::{self, How, Op, Persist},
    hook::Standing,
    hops, netlink, random,
    table::monotonic_ns,
};
use crate::{
    admin::protocol::InterfaceView,
    config::spec::{Forward, Interface},
};

/// After a refusal the same interface is asked again then, ns: trying may reset its link.
const REFUSED_PAUSE: u64 = 30_000_000_000;

/// The interfaces of the generation that is on.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    /// `XDPInterface`s.
    pub(super) wanted: Vec<Interface>,
    /// An operator took the program off: it stays off until the configuration is read again.
    pub(super) detached: bool,
    /// What is wrong with those of them that something is wrong with, by name.
    alarms: BTreeMap<String, Alarm>,
}

/// Something is wrong with an interface.
#[derive(Debug)]
struct Alarm {
    /// As it was said.
    text: String,
    /// Its index when it refused the program, and until when it is not asked again.
    refused: Option<(u32, u64)>,
}

impl Interfaces {
    /// The program is to run on these from now on, or on none of them; returns what was before.
    pub(super) fn turn_to(
        &mut self,
        wanted: &[Interface],
        detached: bool,
    ) -> (Vec<Interface>, bool) {
        self.alarms
            .retain(|name, _| wanted.iter().any(|wanted| wanted.name == *name));
        let before = std::mem::replace(&mut self.wanted, wanted.to_vec());
        (before, std::mem::replace(&mut self.detached, detached))
    }

    /// An operator took the program off.
    pub(super) fn detach(&mut self) {
        self.detached = true;
        self.alarms.clear();
    }

    /// Those that something is wrong with, as `status` shows them.
    pub(super) fn alarms(&self) -> impl Iterator<Item = InterfaceView> {
        self.alarms.iter().map(|(name, alarm)| InterfaceView {
            name: name.clone(),
            alarm: alarm.text.clone(),
            ..InterfaceView::default()
        })
    }

    /// Whether it refused the program a moment ago.
    fn is_waiting(&self, name: &str, now: u64) -> bool {
        let refused = self.alarms.get(name).and_then(|alarm| alarm.refused);
        refused.is_some_and(|(index, again)| {
            let is = netlink::by_name(name).ok().flatten();
            now < again && is.is_some_and(|link| link.index == index)
        })
    }

    fn alarm(&mut self, name: &str, text: String, refused: Option<(u32, u64)>) {
        let said = self
            .alarms
            .get(name)
            .is_some_and(|alarm| alarm.text == text);
        if !said {
            tracing::error!("interface {name} {text}");
        }
        (self.alarms).insert(name.to_owned(), Alarm { text, refused });
    }

    /// Takes in how it is with an interface; whether the program was attached to it anew.
    fn take(&mut self, name: &str, standing: Standing, now: u64) -> bool {
        match standing {
            Standing::Unknown => false,
            Standing::Runs => {
                if self.alarms.remove(name).is_some() {
                    tracing::info!(
                        notice = true,
                        "interface {name}: the program runs on it again"
                    );
                }
                false
            }
            Standing::Attached(notices) => {
                if self.alarms.remove(name).is_some() {
                    tracing::info!(
                        notice = true,
                        "interface {name} has appeared: the program is attached"
                    );
                } else {
                    tracing::error!(
                        "interface {name} is another now: the program is attached again"
                    );
                }
                for notice in notices {
                    tracing::info!(notice = true, "{notice}");
                }
                true
            }
            Standing::Missing { vanished } => {
                let text = if vanished {
                    "has vanished: packets that came in by it are neither guarded nor steered until \
                     it is back"
                } else {
                    "is not there: what comes in by it is neither guarded nor steered; the program is \
                     attached as soon as it appears"
                };
                self.alarm(name, text.to_owned(), None);
                false
            }
            Standing::Renamed { to } => {
                let text = format!(
                    "is called {to} now: the program stays on it until sluice is started anew; name \
                     it so in XDPInterface"
                );
                self.alarm(name, text, None);
                false
            }
            Standing::Refused { index, why } => {
                let text = format!("is not guarded: {why}");
                self.alarm(name, text, Some((index, now + REFUSED_PAUSE)));
                false
            }
        }
    }
}

/// What to tell of interfaces that are not there when a generation is published.
pub(super) fn missing(wanted: &[Interface]) -> Vec<String> {
    let missing = |interface: &&Interface| matches!(netlink::by_name(&interface.name), Ok(None));
    (wanted.iter().filter(missing))
        .map(|interface| {
            format!(
                "interface {} is not there yet: the program is attached as soon as it appears",
                interface.name
            )
        })
        .collect()
}

impl Dataplane {
    /// Neighbours changed: follows them. `ways`: interfaces, addresses or routes did, too.
    pub fn follow_host(&mut self, ways: bool) {
        if self.kernel.is_none() || self.interfaces.detached {
            return;
        }
        if !ways {
            self.hops.look_at_neighbours(&self.store);
            return;
        }
        self.follow_interfaces();
        self.hops.look_at_routes();
        self.hops.look_at_neighbours(&self.store);
        if let Err(error) = self.follow_ways() {
            tracing::warn!("changed routes to members were not taken up: {error}; reload");
        }
    }

    /// Attaches to interfaces that came, or came back, and says what is wrong with others.
    pub(super) fn follow_interfaces(&mut self) {
        let Some(kernel) = &mut self.kernel else {
            return;
        };
        if self.interfaces.detached {
            return;
        }
        let now = monotonic_ns();
        let wanted = self.interfaces.wanted.clone();
        for interface in &wanted {
            let name = &interface.name;
            if self.interfaces.is_waiting(name, now) {
                continue;
            }
            let standing = match kernel.follow(interface, &wanted) {
                Ok(standing) => standing,
                Err(error) => {
                    tracing::error!("interface {name} cannot be looked after: {error}");
                    continue;
                }
            };
            if self.interfaces.take(name, standing, now) {
                // What was learned of next hops may name the interface that is gone.
                self.hops.ask_anew(&self.store);
            }
        }
    }

    /// Our addresses towards members, and the room for packets on the way, where they changed since
    /// they were published. What is gone stays as it was: a route may come back.
    fn follow_ways(&mut self) -> Result<(), DataplaneError> {
        let Some(desired) = &self.desired else {
            return Ok(());
        };
        let steers = &desired.spec.sluice.steers;
        if steers.iter().all(|steer| steer.forward == Forward::Dsr) {
            return Ok(());
        }
        let is = hops::facts(desired);
        let mut facts = Facts {
            sources: self.facts.sources.clone(),
            mtus: self.facts.mtus.clone(),
            ..is
        };
        facts.sources.extend(is.sources);
        facts.mtus.extend(is.mtus);
        if facts == self.facts {
            return Ok(());
        }
        let image = desired.image(&facts)?;
        let actual = self.store.actual()?;
        let mut how = How {
            persist: Persist::Adopt,
            now: monotonic_ns(),
            draw: &mut random,
            file_limits: &self.file_limits,
        };
        let plan = diff::diff(&actual, &image, &mut how)?;
        let changed = diff::of_ways(plan.ops, &actual)?;
        self.facts = facts;
        if !changed.is_empty() {
            let steps = self.store.apply_all(&changed)?;
            // Services that were published without an address to come from have one now: once for
            // each generation, with which it goes.
            if changed.iter().any(|op| matches!(op, Op::Way(_)))
                && let Some(undo) = &mut self.undo
            {
                undo.steps.extend(steps);
            }
            tracing::info!(
                notice = true,
                "routes to members changed: steered packets go out as from our address there"
            );
        }
        Ok(())
    }
}
