//! Changes made in the balancer-manager: the proxy asks, control carries them out. What the member
//! table holds is changed as `member set` does it; what the configuration holds becomes a
//! generation of its own, as by a reload of a file that says so.
//!
//! What was changed is kept beside the file ([`Kept`]), and with `BalancerPersist` on disk.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{child::Delivery, control::Control, preflight};
use crate::{
    admin::{
        change,
        manager::{
            edit::{self, EditError, Live, Setting, Submission},
            kept::Kept,
        },
    },
    config::spec::{Balancer, Heartbeat, LbMethod, Spec},
    dataplane::{Desired, Place},
    proxy::manager::Answer,
};

/// Bytes of a file of kept changes; a larger one is not ours.
const MOST_BYTES: u64 = 4 << 20;

impl Control {
    /// Carries out what a client of the proxy's asked for, and answers it.
    pub(super) async fn manage(&mut self, number: u64, client: SocketAddr, asked: &Submission) {
        let answer = self.submit(asked).await;
        match &answer {
            Ok(message) => {
                tracing::info!(
                    notice = true,
                    "balancer-manager, client {client}: {message}"
                );
            }
            Err((why, _)) => {
                tracing::error!("balancer-manager, client {client}: refused: {why}");
            }
        }
        if let Some(proxy) = &self.proxy {
            // A link that is broken is noticed where it is read.
            drop(proxy.changed(number, answer).await);
        }
    }

    async fn submit(&mut self, asked: &Submission) -> Answer {
        let no = |why: &str| Err((why.to_owned(), false));
        if self.is_stopping() {
            return no("the service is stopping; nothing was changed");
        }
        // The proxy is not trusted: what it may ask for is looked at again.
        if !asked.settings.iter().all(Setting::is_valid) || !has_manager(&self.desired.spec) {
            return no("this cannot be asked for here; nothing was changed");
        }
        let spec = Arc::clone(&self.desired.spec);
        let found = spec.balancers.iter().position(|b| b.name == asked.balancer);
        let Some(b) = found.filter(|b| !spec.balancers[*b].direct) else {
            return no("there is no such balancer any more; nothing was changed");
        };
        let balancer = &spec.balancers[b];
        let member = match &asked.member {
            None => None,
            Some(url) => {
                let at = balancer.members.iter().position(|m| m.url == *url);
                let Some(found) = at.and_then(|m| Some((m, self.live(b, m)?))) else {
                    return no("there is no such member any more; nothing was changed");
                };
                Some(found)
            }
        };
        let plan = edit::plan(balancer, member, &asked.settings)
            .map_err(|error: EditError| (error.to_string(), error.is_bad_request()))?;
        if let Some(why) = (plan.balancer.as_ref())
            .and_then(|next| cannot_be(&spec, balancer.lbmethod, next.lbmethod))
        {
            return no(why);
        }
        let mut done = plan.done.clone();
        if let Some(next) = plan.balancer {
            let lbmethod = next.lbmethod;
            self.switch_balancer(b, next)
                .await
                .map_err(|why| (format!("{why}; nothing was changed"), false))?;
            if lbmethod != balancer.lbmethod {
                let table = self.dataplane.table();
                let ids = self.published.ids.get(b).map_or(&[][..], Vec::as_slice);
                let cells: Vec<_> = ids.iter().filter_map(|id| table.cell(*id)).collect();
                change::restart_method(lbmethod, &cells);
            }
            self.kept.before(balancer);
            self.kept
                .set(&balancer.name, asked.member.as_deref(), &asked.settings);
        }
        let what = asked.member.as_ref().map_or_else(
            || format!("balancer://{}", balancer.name),
            |url| format!("{url} of balancer://{}", balancer.name),
        );
        if let (Some(url), false) = (&asked.member, plan.slot.is_empty()) {
            let said = self
                .change_member(&balancer.name, url, &plan.slot)
                .map_err(|why| (why, false))?;
            // It names member and balancer itself.
            let said = said
                .split_once(": ")
                .map_or(said.as_str(), |(_, said)| said);
            done.push(said.to_owned());
        } else if !done.is_empty() {
            self.keep();
        }
        if done.is_empty() {
            return Ok(format!("{what}: everything is so already"));
        }
        Ok(format!("{what}: {}", done.join(", ")))
    }

    /// What the table holds of a member.
    fn live(&self, balancer: usize, member: usize) -> Option<Live> {
        let id = *self.published.ids.get(balancer)?.get(member)?;
        let table = self.dataplane.table();
        let cell = table.cell(id)?;
        Some(Live {
            state: cell.state(),
            lbfactor: cell.weight.load(std::sync::atomic::Ordering::Acquire),
            lbset: cell.lbset(),
        })
    }

    /// Remembers a member's slot after a change, whoever made it.
    pub(super) fn keep_slot(&mut self, balancer: usize, member: usize) {
        let spec = Arc::clone(&self.desired.spec);
        let of = &spec.balancers[balancer];
        if !of.manage.persist {
            return;
        }
        if let Some(live) = self.live(balancer, member) {
            self.kept.before(of);
            self.kept.slot(&of.name, &of.members[member].url, live);
            self.keep();
        }
    }

    /// Switches to a generation in which one balancer is another.
    async fn switch_balancer(&mut self, index: usize, next: Balancer) -> Result<(), String> {
        let mut spec = Spec::clone(&self.desired.spec);
        let known = spec.balancers[index].members.len();
        spec.balancers[index] = next;
        let spec = Arc::new(spec);
        let mut addresses = self.desired.addresses.clone();
        if spec.balancers[index].members.len() > known {
            // The others stay where they are: a name server that is away must not move them.
            let mut added = Spec {
                balancers: vec![spec.balancers[index].clone()],
                ..Spec::default()
            };
            added.balancers[0].members.drain(..known);
            let (found, unresolved) = preflight::resolve(&added, self.found_names()).await;
            if let Some(error) = unresolved.first() {
                return Err(error.to_string());
            }
            addresses[index].extend(found.into_iter().flatten());
        }
        self.switch(Desired { addresses, spec }).await
    }

    /// Switches to a generation that differs in its balancers alone: listeners, logs and certificates
    /// stay. On error nothing has changed.
    pub(super) async fn switch(&mut self, desired: Desired) -> Result<(), String> {
        let spec = Arc::clone(&desired.spec);
        let published = self
            .dataplane
            .publish_beside(&desired)
            .map_err(|error| error.to_string())?;
        let table = self.dataplane.table();
        self.ledger.published(&spec, &published, &table);
        let delivery = Delivery {
            number: published.generation,
            spec: &spec,
            ids: &published.ids,
            listeners: &self.listeners,
            logs: &self.logs,
            certificates: &self.certificates,
            tickets: &self.tickets,
            shards: self.pins.len(),
        };
        let delivered = self.hand_over(delivery).await;
        self.settle(delivered, published.program)?;
        self.desired = desired;
        self.published = published;
        Ok(())
    }

    /// Writes what is to outlive the process.
    fn keep(&self) {
        let spec = &self.desired.spec;
        if !spec.balancers.iter().any(|b| b.manage.persist) {
            return;
        }
        let path = kept_path(&self.options.place);
        let text = self.kept.text(spec).map_err(io::Error::from);
        if let Err(error) = text.and_then(|text| write(&path, &text)) {
            tracing::error!(
                "BalancerPersist: {} not written: {error}; the change holds until the next start",
                path.display()
            );
        }
    }
}

/// Why a balancer cannot be switched to what was asked for, beside what is wrong with it itself.
fn cannot_be(spec: &Spec, before: LbMethod, next: LbMethod) -> Option<&'static str> {
    let is_new = next == LbMethod::Heartbeat && before != next;
    (is_new && spec.heartbeat == Heartbeat::default()).then_some(
        "lbmethod heartbeat needs HeartbeatListen or HeartbeatStorage in the configuration: without them no member would ever be heard of; nothing was changed",
    )
}

/// Whether anything in the configuration is a balancer-manager.
fn has_manager(spec: &Spec) -> bool {
    let manager = Some(crate::config::spec::policy::Handler::BalancerManager);
    spec.policies.iter().any(|policy| {
        let mut rules = policy.rewriting.rules.iter();
        policy.handler == manager || rules.any(|rule| rule.handler == manager)
    })
}

/// Puts what was kept over a configuration that was just read.
pub(super) fn put_over(spec: Arc<Spec>, kept: &mut Kept) -> (Arc<Spec>, Vec<String>) {
    let mut spec = Arc::unwrap_or_clone(spec);
    let notices = kept.put_over(&mut spec);
    (Arc::new(spec), notices)
}

/// What an earlier process kept for this instance; nothing where no balancer asks for it.
pub(super) fn load(place: &Place, spec: &Spec, notices: &mut Vec<String>) -> Kept {
    if !spec.balancers.iter().any(|b| b.manage.persist) {
        return Kept::default();
    }
    let path = kept_path(place);
    let read = || -> io::Result<Kept> {
        let mut text = Vec::new();
        let file = fs::File::open(&path)?;
        file.take(MOST_BYTES + 1).read_to_end(&mut text)?;
        if text.len() as u64 > MOST_BYTES {
            return Err(io::Error::other("too large"));
        }
        Ok(Kept::parse(&text)?)
    };
    read().unwrap_or_else(|error| {
        if error.kind() != io::ErrorKind::NotFound {
            notices.push(format!(
                "BalancerPersist: {} cannot be used ({error}): the file of the configuration counts",
                path.display()
            ));
        }
        Kept::default()
    })
}

/// systemd's state directory, which outlives a boot; else the run directory.
fn kept_path(place: &Place) -> PathBuf {
    let state = std::env::var_os("STATE_DIRECTORY").map(PathBuf::from);
    let dir = state.filter(|dir| dir.is_absolute());
    let dir = dir.unwrap_or_else(|| place.run_dir.clone());
    dir.join(format!("{}.balancers.json", place.instance))
}

/// All of it or nothing.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heartbeat_is_refused_where_none_can_come() {
        let (requests, heartbeat) = (LbMethod::ByRequests, LbMethod::Heartbeat);
        let mut spec = Spec::default();
        assert!(cannot_be(&spec, requests, heartbeat).is_some());
        assert!(cannot_be(&spec, heartbeat, heartbeat).is_none());
        assert!(cannot_be(&spec, heartbeat, requests).is_none());
        spec.heartbeat.storage = Some("/run/hb.dat".into());
        assert!(cannot_be(&spec, requests, heartbeat).is_none());
    }
}
