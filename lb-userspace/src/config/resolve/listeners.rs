//! Listeners: those of the file, or derived from the virtual hosts' addresses.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

use crate::config::{
    draft::{Draft, Mark},
    report::Severity,
    spec::Listener,
};

/// The Spec's listeners.
pub(super) fn collect(draft: &mut Draft<'_>, file: &Path) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = draft
        .listens
        .iter()
        .map(|listen| Listener {
            address: listen.address,
            dual: is_any6(listen.address),
            deferred: draft.deferred[usize::from(listen.https)],
            at: listen.mark.place(),
        })
        .collect();
    if listeners.is_empty() {
        listeners = derive(draft, file);
    } else {
        warn_unheard(draft);
    }
    // As httpd does where both wildcards of one port are named: the IPv6 one leaves IPv4 alone.
    let any4: BTreeSet<u16> = listeners
        .iter()
        .filter(|listener| listener.address.ip() == IpAddr::V4(Ipv4Addr::UNSPECIFIED))
        .map(|listener| listener.address.port())
        .collect();
    for listener in &mut listeners {
        if any4.contains(&listener.address.port()) {
            listener.dual = false;
        }
    }
    listeners
}

fn is_any6(address: SocketAddr) -> bool {
    address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// Listeners for the addresses of all virtual hosts; specific addresses of a port that has a
/// wildcard are covered by it.
fn derive(draft: &mut Draft<'_>, file: &Path) -> Vec<Listener> {
    let mut wanted: Vec<(SocketAddr, Mark)> = Vec::new();
    for host in &draft.hosts {
        let Some(mark) = &host.mark else { continue };
        for address in &host.addresses {
            let Some(port) = address.port else { continue };
            let ip = address.ip.unwrap_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED));
            let socket = SocketAddr::new(ip, port);
            if !wanted.iter().any(|(known, _)| *known == socket) {
                wanted.push((socket, mark.clone()));
            }
        }
    }
    let wild: BTreeSet<u16> = wanted
        .iter()
        .filter(|(address, _)| is_any6(*address))
        .map(|(address, _)| address.port())
        .collect();
    wanted.retain(|(address, _)| is_any6(*address) || !wild.contains(&address.port()));
    if wanted.is_empty() {
        // A Listen or VirtualHost that was refused is enough to say. Steered packets need none.
        if draft.reports.has_errors() || !draft.steers.is_empty() {
            return Vec::new();
        }
        let message = "no listening sockets available: no Listen, and no <VirtualHost> with a port";
        let help = "add for example: Listen 80";
        draft
            .reports
            .push_file(Severity::Error, file, u32::MAX, message, help);
        return Vec::new();
    }
    let shown: Vec<String> = wanted
        .iter()
        .map(|(address, _)| {
            if is_any6(*address) {
                address.port().to_string()
            } else {
                address.to_string()
            }
        })
        .collect();
    let message = format!(
        "no Listen: listening on {}, after the virtual hosts",
        shown.join(", ")
    );
    let help = "write the Listen lines to have it otherwise; httpd would refuse to start";
    draft
        .reports
        .push_file(Severity::Notice, file, u32::MAX, message, help);
    wanted
        .into_iter()
        .map(|(address, mark)| Listener {
            address,
            dual: is_any6(address),
            deferred: draft.deferred[usize::from(address.port() == 443)],
            at: mark.place(),
        })
        .collect()
}

/// Warns of addresses of virtual hosts that no Listen accepts connections for.
fn warn_unheard(draft: &mut Draft<'_>) {
    for host in &draft.hosts {
        let Some(mark) = &host.mark else { continue };
        for address in &host.addresses {
            let Some(port) = address.port else { continue };
            let heard = draft.listens.iter().any(|listen| {
                let ip = listen.address.ip();
                let covers = match address.ip {
                    None => true,
                    Some(wanted) => {
                        ip == wanted
                            || ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
                            || (wanted.is_ipv4() && ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED))
                    }
                };
                listen.address.port() == port && covers
            });
            if !heard {
                let shown = match address.ip {
                    None => format!("*:{port}"),
                    Some(ip) => SocketAddr::new(ip, port).to_string(),
                };
                let message = format!(
                    "nothing listens on {shown}: this virtual host gets no request from there"
                );
                let help = format!("add: Listen {}", shown.trim_start_matches("*:"));
                draft
                    .reports
                    .push(Severity::Warning, mark.at(), message, help);
            }
        }
    }
}
