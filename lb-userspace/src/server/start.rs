//! Control's start: from nothing, beside a proxy whose control died, as the successor of the program
//! that this process was, or as that program again when a successor could not go on.

use std::{
    collections::BTreeMap,
    fs, io,
    os::{fd::AsFd as _, unix::fs::DirBuilderExt as _},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{Mutex, mpsc};

use super::{
    RunOptions, StartError,
    backoff::Backoff,
    certificates::{self, Loaded, Watch},
    child::{ChildError, Delivery, ProxyChild},
    control::{Control, Retired},
    cpus::Cpus,
    follow,
    foundlings::Foundlings,
    handover::{HandedProxy, Legacy, State},
    inbox::Inbox,
    ledger::Ledger,
    link::Parcel,
    listeners::Listeners,
    manager,
    names::{self, Names},
    preflight::{self, Logs},
    privileges::Identity,
    scrape::Scrape,
    signals::Signals,
    socket::ControlSocket,
    steering::Balance,
};
use crate::{
    config::spec::Spec,
    dataplane::{Dataplane, Desired, KernelLog, sys::hold_signals, table::monotonic_ns},
    proxy::tls::{TicketKeys, tickets},
};

/// Who serves once control has started.
enum Serves {
    /// A new proxy; those of a predecessor are to retire.
    New(ProxyChild),
    /// The one that served: this is the old program again.
    Still(ProxyChild),
}

impl Control {
    /// Checks everything, opens the maps, binds, publishes, starts the proxy; returns when it
    /// serves. On error nothing of it is left but what was there before. `legacy` stays whole, for
    /// a way back, but for sockets that were bound beside those in it.
    pub(super) async fn start(
        mut options: RunOptions,
        spec: Arc<Spec>,
        mut legacy: Option<&mut Legacy>,
    ) -> Result<Self, StartError> {
        if !options.instance_given {
            options.place.instance.clone_from(&spec.sluice.instance);
        }
        // First of all: until then USR1 is the end of a process.
        let mut signals = Signals::new()?;
        hold_signals(false)?;
        make_run_dir(&options.place.run_dir)?;
        let spec = without_dataplane(spec, options.no_xdp);
        let host = |error: preflight::PreflightError| StartError::Host(error.to_string());
        let back = way_back(legacy.as_deref())?;
        let mut said = Vec::new();
        let mut kept = match &legacy {
            Some(legacy) => legacy.state.kept.clone().into(),
            None => manager::load(&options.place, &spec, &mut said),
        };
        let spec = if back.is_none() {
            let (spec, more) = manager::put_over(spec, &mut kept);
            said.extend(more);
            spec
        } else {
            // What served goes on as it was.
            spec
        };
        let identity = preflight::identity(&spec).map_err(host)?;
        // Before anything is started here.
        let foundlings = legacy
            .as_deref()
            .map_or_else(Foundlings::default, |legacy| {
                let proxies = legacy.state.proxies.iter().map(|proxy| proxy.pid);
                Foundlings::of_predecessor(&proxies.collect::<Vec<_>>())
            });
        let logs = Logs::open(&spec, None).map_err(host)?;
        let tls = match (certificates::load(&spec), &back) {
            (Ok(tls), _) => tls,
            // What cannot be read any more is served from what was read.
            (Err(_), Some((parcel, _))) => {
                let mut tls = Loaded::default();
                tls.certificates.clone_from(&parcel.certificates);
                tls
            }
            (Err(errors), None) => return Err(StartError::Host(certificates::lines(&errors))),
        };
        let watch = Watch::new(&tls);
        let tickets = tickets(legacy.as_deref())?;
        let addresses = if let Some((_, state)) = &back {
            state.addresses.clone()
        } else {
            tokio::select! {
                resolved = preflight::resolve(&spec, BTreeMap::new()) => {
                    let (addresses, unresolved) = resolved;
                    // Whoever is not there to correct it is served better by the others.
                    for error in unresolved {
                        said.push(format!("{error}; it is in error until the name is found"));
                    }
                    addresses
                }
                () = signals.stop() => return Err(StartError::Stopped),
            }
        };
        let cpus = Cpus::of_process();
        let shards = match &back {
            Some((_, state)) => state.shards,
            None => cpus.shards(spec.sluice.shards),
        };
        let pins = cpus.pins(shards);

        let mut notices = tls.warnings.clone();
        notices.extend(said);
        notices.extend(preflight::doubts(&spec));
        let dataplane = open_dataplane(&options, &spec, legacy.as_deref(), &mut notices)?;
        // From here on there may be pins that were not there before.
        let mut undo = Undo(Some(dataplane));
        let opened = undo.dataplane();
        // Before anything can be seen of this start: who asks now is answered when it serves.
        let (ask, asks) = mpsc::channel(64);
        let mut socket = match &legacy {
            Some(legacy) => ControlSocket::adopt(legacy.socket.try_clone()?, ask.clone())?,
            None => ControlSocket::bind(&options.place, &spec.sluice, ask.clone())?,
        };
        let scraped = (legacy.as_deref())
            .and_then(|legacy| legacy.scrape.as_ref())
            .map(|socket| Scrape::adopt(socket, &ask))
            .transpose()?;
        let scrape = Scrape::of(&spec.sluice, scraped.as_ref(), &ask)
            .map_err(|error| StartError::Host(error.to_string()))?;
        let mut ledger = ledger(legacy.as_deref(), shards, &mut notices)?;
        let orphan = opened.orphan();
        if let Some(pid) = orphan {
            notices.push(format!(
                "the control before this one died; its proxy, process {pid}, still serves and is \
                 taken over from"
            ));
        }
        let before = match &mut legacy {
            Some(legacy) => {
                let fitted = (legacy.listeners.clone())
                    .fit(&spec.listeners, &pins, spec.listen_backlog)
                    .map_err(|error| StartError::Host(error.to_string()))?;
                // Whoever goes on has them all: connections may wait in the new ones already.
                legacy.listeners = fitted.clone();
                fitted
            }
            None => Listeners::beside(orphan.is_some()),
        };
        let listeners = before
            .rebind(&spec.listeners, &pins, spec.listen_backlog)
            .await
            .map_err(|error| StartError::Host(error.to_string()))?;
        let desired = Desired {
            addresses,
            spec: Arc::clone(&spec),
        };
        let published = opened.publish(&desired)?;
        names::mark_unresolved(&desired, &published, &opened.table());
        notices.extend(published.notices.iter().cloned());
        notices.extend(ledger.published(&spec, &published, &opened.table()));

        let delivery = Delivery {
            number: published.generation,
            spec: &spec,
            ids: &published.ids,
            listeners: &listeners,
            logs: &logs,
            certificates: &tls.certificates,
            tickets: &tickets,
            shards,
        };
        let proxy_error = |error: ChildError| StartError::Proxy(error.to_string());
        let (serves, mut handed) = match legacy.as_deref() {
            Some(legacy) if back.is_some() => {
                let mut handed = adopt(legacy)?.into_iter();
                let (proxy, _) = handed.next().ok_or_else(no_proxy)?;
                proxy.deliver(delivery).await.map_err(proxy_error)?;
                opened.proxy_serves_on(proxy.pid());
                opened.announce(proxy.pid())?;
                (Serves::Still(proxy), handed.collect())
            }
            legacy => {
                let handed = legacy.map(adopt).transpose()?.unwrap_or_default();
                let mut proxy = ProxyChild::spawn().map_err(proxy_error)?;
                enlist(&mut proxy, opened, &mut ledger);
                let begun = begin(&proxy, opened, &ledger, &pins, identity.clone(), delivery).await;
                if let Err(error) = begun {
                    proxy.bury();
                    opened.table().clear_busy(proxy.column);
                    return Err(StartError::Proxy(error.to_string()));
                }
                (Serves::New(proxy), handed)
            }
        };
        if let Some(log) = opened.log() {
            follow_log(log)?;
        }
        // It serves: nothing below fails, and what was there before may go.
        socket.own(&options.place, &spec.sluice);
        let now = Instant::now();
        let state = legacy.as_deref().map(|legacy| &legacy.state);
        let proxy = match serves {
            Serves::Still(proxy) => proxy,
            Serves::New(proxy) => {
                if let Some((old, deadline)) = handed.first_mut() {
                    match old.retire().await {
                        Ok(()) => old.quiet().await,
                        Err(_) => drop(old.bury()),
                    }
                    *deadline = (state.and_then(|state| state.deadline_ms))
                        .map(|ms| Instant::now() + Duration::from_millis(ms));
                }
                proxy
            }
        };
        let uptime = Duration::from_millis(state.map_or(0, |state| state.uptime_ms));
        Ok(Self {
            dataplane: undo.keep(),
            options,
            desired,
            published,
            listeners,
            logs,
            certificates: tls.certificates,
            tickets,
            watch,
            watched: 0,
            identity,
            cpus,
            steered: pins.clone(),
            balance: Balance::default(),
            pins,
            proxy: Some(proxy),
            retired: (handed.into_iter())
                .map(|(proxy, deadline)| Retired { proxy, deadline })
                .collect(),
            started: now.checked_sub(uptime).unwrap_or(now),
            restarts: state.map_or(0, |state| state.restarts),
            notices,
            kept,
            names: Names::default(),
            ledger,
            foundlings,
            scrape,
            ask,
            backoff: Backoff::default(),
            restart_at: None,
            stop: None,
            socket,
            inbox: Mutex::new(Inbox::new(asks, signals)),
            looks: follow::looks(),
            news: follow::news(),
        })
    }
}

/// The keys of session tickets: those that clients have tickets of, if there was a control to leave them.
fn tickets(legacy: Option<&Legacy>) -> io::Result<TicketKeys> {
    if let Some(left) = legacy.and_then(|legacy| legacy.state.tickets.clone()) {
        return Ok(left);
    }
    let none = || io::Error::other("no randomness for the keys of session tickets");
    TicketKeys::new(monotonic_ns(), &mut tickets::fresh).ok_or_else(none)
}

/// What the old program goes on with, when it is called back.
fn way_back(legacy: Option<&Legacy>) -> io::Result<Option<(Parcel, State)>> {
    legacy
        .filter(|legacy| legacy.state.failed.is_some())
        .map(|legacy| Ok((legacy.parcel()?, legacy.state.clone())))
        .transpose()
}

fn no_proxy() -> StartError {
    StartError::Proxy("there was no proxy to go on with".to_owned())
}

/// The proxies of a predecessor, the one that serves first, with the ends of those that drain.
fn adopt(legacy: &Legacy) -> io::Result<Vec<(ProxyChild, Option<Instant>)>> {
    let now = Instant::now();
    let adopted = |(proxy, link): (&HandedProxy, _)| {
        let child = ProxyChild::adopt(proxy.pid, proxy.column, link)?;
        let left = proxy.left_ms.map(Duration::from_millis);
        Ok((child, left.map(|left| now + left)))
    };
    (legacy.state.proxies.iter().zip(&legacy.links))
        .map(|(proxy, link)| adopted((proxy, link.try_clone()?)))
        .collect()
}

fn ledger(legacy: Option<&Legacy>, shards: usize, notices: &mut Vec<String>) -> io::Result<Ledger> {
    let Some(legacy) = legacy else {
        return Ledger::new(shards);
    };
    let state = legacy.state.ledger.clone();
    let shards = (legacy.state.shards, shards);
    let (ledger, anew) = Ledger::inherit(state, legacy.counters.try_clone()?, shards)?;
    notices.extend(anew.map(|why| format!("request counters begin anew: {why}")));
    Ok(ledger)
}

/// Gives a new process its column and its counters.
pub(super) fn enlist(proxy: &mut ProxyChild, dataplane: &mut Dataplane, ledger: &mut Ledger) {
    proxy.column = dataplane.proxy_started(proxy.pid());
    ledger.proxy_started(proxy.column);
}

/// Sets a new process up and gives it its first generation.
pub(super) async fn begin(
    proxy: &ProxyChild,
    dataplane: &Dataplane,
    ledger: &Ledger,
    pins: &[Option<u32>],
    identity: Option<Identity>,
    delivery: Delivery<'_>,
) -> Result<(), ChildError> {
    let lock = dataplane.lock_reader()?;
    proxy
        .set_up(
            pins,
            identity,
            dataplane.table_fds(),
            lock.as_fd(),
            ledger.file(),
        )
        .await?;
    proxy.deliver(delivery).await?;
    Ok(dataplane.announce(proxy.pid())?)
}

/// As [`follow_log`], of a program that was loaded anew.
pub(super) fn follow_new(dataplane: &mut Dataplane) {
    if let Some(log) = dataplane.log()
        && let Err(error) = follow_log(log)
    {
        tracing::warn!("the program's log is not read: {error}");
    }
}

/// A thread that hands on what the XDP program logs, for as long as this process lives.
fn follow_log(mut log: KernelLog) -> io::Result<()> {
    /// Long enough to cost nothing while the log is off.
    const WAIT_MS: u32 = 60_000;
    std::thread::Builder::new()
        .name("xdp-log".to_owned())
        .spawn(move || {
            while let Ok(()) = log.wait(WAIT_MS) {}
            tracing::warn!("the program's log can no longer be read");
        })?;
    Ok(())
}

fn make_run_dir(path: &std::path::Path) -> Result<(), StartError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(path)
        .map_err(|source| StartError::RunDir {
            path: path.to_owned(),
            source,
        })
}

/// With `--no-xdp` no interface is looked for.
pub(super) fn without_dataplane(spec: Arc<Spec>, no_xdp: bool) -> Arc<Spec> {
    if !no_xdp || spec.sluice.interfaces.is_empty() {
        return spec;
    }
    let mut spec = Arc::unwrap_or_clone(spec);
    spec.sluice.interfaces.clear();
    Arc::new(spec)
}

/// Kernel maps where they can be had; memory where the file can do without and the host has none.
fn open_dataplane(
    options: &RunOptions,
    spec: &Spec,
    legacy: Option<&Legacy>,
    notices: &mut Vec<String>,
) -> Result<Dataplane, StartError> {
    if options.no_xdp
        && let Some(at) = &spec.sluice.needs_dataplane
    {
        notices.push(format!(
            "--no-xdp: the directives of XDP, Steer and Guard (first: {}:{}) have no effect",
            at.file.display(),
            at.line
        ));
    }
    if let Some(legacy) = legacy {
        let left = legacy.inheritance()?;
        if left.memory.is_some()
            && !options.no_xdp
            && let Some(at) = &spec.sluice.needs_dataplane
        {
            return Err(StartError::Host(format!(
                "{}:{}: needs the dataplane, and this instance runs without one: restart",
                at.file.display(),
                at.line
            )));
        }
        return Ok(Dataplane::inherit(&options.place, &spec.sluice, left)?);
    }
    if options.no_xdp {
        return Ok(Dataplane::anonymous(&options.place)?);
    }
    match Dataplane::open(&options.place, &spec.sluice) {
        Ok(dataplane) => Ok(dataplane),
        Err(error) if error.exit_code() != 3 => Err(error.into()),
        Err(source) => {
            if let Some(at) = &spec.sluice.needs_dataplane {
                return Err(StartError::NeedsDataplane {
                    at: at.clone(),
                    source,
                });
            }
            notices.push(format!(
                "no kernel maps ({source}): members' state is kept in memory and ends with this process"
            ));
            Ok(Dataplane::anonymous(&options.place)?)
        }
    }
}

/// Takes back what an unfinished start pinned and attached; what an earlier run left stays.
struct Undo(Option<Dataplane>);

impl Undo {
    fn dataplane(&mut self) -> &mut Dataplane {
        self.0
            .as_mut()
            .expect("taken by keep() only, which consumes self")
    }

    fn keep(mut self) -> Dataplane {
        self.0
            .take()
            .expect("taken by keep() only, which consumes self")
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some(dataplane) = self.0.take() {
            dataplane.abandon();
        }
    }
}
