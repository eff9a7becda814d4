//! Publishing a generation, and keeping what it steers true: rings as members' states change,
//! tables that have room. Interfaces that come and go are in `interfaces.rs`.

use std::sync::atomic::Ordering::Relaxed;

use lb_common::member::MemberId;

use super::{
    Dataplane, DataplaneError, Desired, Facts, Published,
    diff::{self, How, Op, Persist, Plan},
    heritage::Undo,
    hops, interfaces,
    kernel::{Kernel, Opened},
    random,
    steering::{Changed, Steering},
    table::monotonic_ns,
    tables::TableSizes,
};
use crate::config::spec::{Interface, Sluice};

impl Dataplane {
    /// Preflight, members, services, lists, removals; undone on error. Attaches and detaches
    /// interfaces that the new configuration adds or drops.
    ///
    /// A member that the new configuration does not name keeps its slot, usable, until nobody of an
    /// earlier generation can be on it ([`Dataplane::tick`]).
    pub fn publish(&mut self, desired: &Desired) -> Result<Published, DataplaneError> {
        self.publish_on(desired, true)
    }

    /// As [`Dataplane::publish`], of a change that is not the file's: interfaces that an operator took
    /// the program off ([`Dataplane::detach`]) stay as they are.
    pub fn publish_beside(&mut self, desired: &Desired) -> Result<Published, DataplaneError> {
        self.publish_on(desired, !self.interfaces.detached)
    }

    fn publish_on(&mut self, desired: &Desired, attach: bool) -> Result<Published, DataplaneError> {
        self.resize_tables(&desired.spec.sluice, attach)?;
        let facts = match &self.kernel {
            Some(_) => hops::facts(desired),
            None => Facts::default(),
        };
        let image = desired.image(&facts)?;
        let actual = self.store.actual()?;
        let mut how = How {
            persist: self.persist,
            now: monotonic_ns(),
            draw: &mut random,
            file_limits: &self.file_limits,
        };
        let plan = diff::diff(&actual, &image, &mut how)?;
        let wanted: &[Interface] = if attach {
            &desired.spec.sluice.interfaces
        } else {
            &[]
        };
        let mut notices = std::mem::take(&mut self.notices);
        let changes = match &mut self.kernel {
            Some(kernel) => kernel.attach_missing(wanted, &desired.spec.sluice, &mut notices)?,
            None => Vec::new(),
        };
        let mut flat = plan.ids.iter().copied();
        let ids: Vec<Vec<MemberId>> = (desired.spec.balancers.iter())
            .map(|b| flat.by_ref().take(b.members.len()).collect())
            .collect();
        let (steering, steps) = match self.apply(desired, &plan, &ids) {
            Ok(done) => done,
            Err(error) => {
                if let Some(kernel) = &mut self.kernel {
                    kernel.take_back(changes)?;
                }
                return Err(error);
            }
        };
        let steering = std::mem::replace(&mut self.steering, steering);
        let interfaces = (self.interfaces).turn_to(&desired.spec.sluice.interfaces, !attach);
        let members = self.hops.turn_to(desired, &ids);
        // The generation is on: what fails from here on is no reason to say it were not.
        if let Err(error) = self.steering.remove_others(&mut self.store) {
            tracing::warn!(%error, "rings that nothing leads to stay until the next publish");
        }
        if let Some(kernel) = &mut self.kernel {
            kernel.detach_others(wanted, &mut notices);
            notices.extend(interfaces::missing(wanted));
            notices.extend(hops::notices(desired));
            self.hops.look_at_routes();
            self.hops.look_at_neighbours(&self.store);
        }
        self.state_changed();
        match self.store.rest.prefixes() {
            Ok(prefixes) => self.prefixes = prefixes,
            Err(error) => tracing::error!("lists of prefixes are shown as they were: {error}"),
        }
        let file_limits = std::mem::replace(&mut self.file_limits, plan.file_limits);
        let facts = std::mem::replace(&mut self.facts, facts);
        self.desired = Some(desired.clone());
        self.undo = Some(Undo {
            steps,
            file_limits,
            steering,
            interfaces,
            members,
            facts,
        });
        self.persist = Persist::Adopt;
        notices.extend(plan.notices);
        Ok(Published {
            program: std::mem::take(&mut self.reloaded),
            generation: self.store.meta().generation.load(Relaxed),
            ids,
            notices,
        })
    }

    /// Makes room for flows where there was none, with the program loaded anew in the place of the
    /// one that runs. A table with flows in it keeps its size.
    fn resize_tables(&mut self, sluice: &Sluice, attach: bool) -> Result<(), DataplaneError> {
        if self.kernel.is_none() {
            return Ok(());
        }
        let wanted = TableSizes::of(sluice);
        let is = TableSizes::are(self.store.l4.sizes());
        let Some(change) = is.change_to(wanted) else {
            return Ok(());
        };
        let loses = change.loses && self.store.l4.flows().next().is_some();
        if loses {
            return Err(DataplaneError::Refused(format!(
                "SteerFlowTable: the flow table has {} places and flows in them; another size needs a \
                 restart of sluice, which forgets them",
                is.flows()
            )));
        }
        // Interfaces that this generation does not know yet are attached to when it is published.
        let attached: Vec<Interface> = (sluice.interfaces.iter())
            .filter(|wanted| {
                let mut known = self.interfaces.wanted.iter();
                attach && !self.interfaces.detached && known.any(|known| known.name == wanted.name)
            })
            .cloned()
            .collect();
        let Opened {
            kernel,
            store,
            notices,
        } = Kernel::open(&self.place, &attached, sluice)?;
        self.kernel = Some(kernel);
        self.store = store;
        self.notices.extend(notices);
        self.reloaded = true;
        Ok(())
    }

    /// Members first, then the rings of the states they have then, then what leads there; all is as
    /// before on error.
    fn apply(
        &mut self,
        desired: &Desired,
        plan: &Plan,
        ids: &[Vec<MemberId>],
    ) -> Result<(Steering, Vec<Op>), DataplaneError> {
        let (members, rest) = plan.ops.split_at(plan.members_end);
        let mut undo = self.store.apply_all(members)?;
        let balancers = &plan.balancers;
        let mut steering = self
            .steering
            .turned_to(desired, ids, balancers, &self.store);
        let done = steering
            .refresh(&mut self.store, monotonic_ns())
            .and_then(|_| self.store.apply_all(rest));
        match done {
            Ok(steps) => {
                undo.extend(steps);
                Ok((steering, undo))
            }
            Err(error) => {
                self.steering.restore(&mut self.store, &steering);
                if let Err(second) = self.store.take_back(undo, monotonic_ns()) {
                    tracing::error!(%second, "undoing a failed publish failed too");
                }
                Err(error)
            }
        }
    }

    /// Whether packets are steered, so that [`Dataplane::refresh_rings`] has something to look after.
    pub const fn is_steering(&self) -> bool {
        !self.steering.is_idle()
    }

    /// Makes the rings follow the members' states, weights and sets: those that changed, each at
    /// once. Cheap when nothing did.
    pub fn refresh_rings(&mut self) {
        match self.steering.refresh(&mut self.store, monotonic_ns()) {
            Ok(changes) => {
                for Changed {
                    balancer,
                    members,
                    before,
                } in changes
                {
                    let before = before.map_or_else(String::new, |n| format!(" (it was of {n})"));
                    tracing::info!(
                        "new flows of balancer://{balancer} go to a ring of {members} members{before}"
                    );
                }
            }
            Err(error) => tracing::error!(%error, "a ring could not be written; it is tried again"),
        }
    }

    /// An operator enabled a member: it need not prove itself first.
    pub fn forgive(&mut self, id: MemberId) {
        self.steering.forgive(id);
    }
}
