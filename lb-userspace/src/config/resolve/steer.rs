//! `SteerPass` to the Spec, with what can only be seen beside its balancer, its members and the
//! listeners.

use std::net::{IpAddr, SocketAddr};

use super::Names;
use crate::config::{
    draft::{Draft, SteerDraft, TargetDraft},
    report::{Reports, Severity},
    spec::{Balancer, Forward, Listener, Member, Scheme, Steer, Transport},
};

/// The Spec's steered services.
pub(super) fn resolve(
    draft: &mut Draft<'_>,
    names: &Names,
    balancers: &[Balancer],
    listeners: &[Listener],
) -> Vec<Steer> {
    let mut steers = Vec::new();
    let mut steered = Vec::new();
    for own in std::mem::take(&mut draft.steers) {
        check_listeners(&mut draft.reports, &own, listeners);
        let Some(balancer) = find(draft, names, &own) else {
            continue;
        };
        let known: &Balancer = &balancers[balancer];
        let mut ports_differ = false;
        for member in &known.members {
            check_member(&mut draft.reports, &own, member, &mut ports_differ);
        }
        if known.members.is_empty() {
            let message = format!(
                "balancer://{} has no members: every packet for {} is dropped or reset",
                own.balancer,
                service(&own)
            );
            let at = own.balancer_mark.at();
            draft.reports.push(Severity::Warning, at, message, "");
        }
        if !steered.contains(&balancer) {
            steered.push(balancer);
            notice_method(draft, &own);
        }
        steers.push(Steer {
            transport: own.transport,
            address: own.address,
            first_port: own.first_port,
            last_port: own.last_port,
            balancer,
            forward: own.forward,
            hash: own.hash,
            reset_on_empty: own.reset_on_empty,
            at: own.mark.place(),
        });
    }
    notice_checks(draft, balancers, &steers);
    check_routes(draft, names, balancers);
    warn_unused(draft, balancers, &steers);
    check_interfaces(draft, &steers);
    steers
}

/// `tcp://VIP:PORT` as it was meant.
fn service(steer: &SteerDraft) -> String {
    let transport = match steer.transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    let first = steer.first_port;
    let shown = match steer.address {
        Some(ip) => SocketAddr::new(ip, first).to_string(),
        None => format!("*:{first}"),
    };
    if steer.last_port == first {
        format!("{transport}://{shown}")
    } else {
        format!("{transport}://{shown}-{}", steer.last_port)
    }
}

/// A balancer of the main server, or the only one of that name that a virtual host has.
fn find(draft: &mut Draft<'_>, names: &Names, own: &SteerDraft) -> Option<usize> {
    let hosts = 0..draft.hosts.len();
    let mut found: Vec<usize> = hosts
        .filter_map(|host| names.balancer(host, &own.balancer))
        .collect();
    found.sort_unstable();
    found.dedup();
    let (message, help) = match found[..] {
        [one] => return Some(one),
        [] => (
            format!("SteerPass: there is no balancer://{}", own.balancer),
            format!(
                "add <Proxy balancer://{}> with BalancerMember lines",
                own.balancer
            ),
        ),
        _ => (
            format!(
                "SteerPass: several virtual hosts have a balancer://{} of their own",
                own.balancer
            ),
            "define it once outside of the virtual hosts".to_owned(),
        ),
    };
    let at = own.balancer_mark.at();
    draft.reports.push(Severity::Error, at, message, help);
    None
}

fn at_member(member: &Member) -> String {
    format!(
        "member {} (line {} of {})",
        member.url,
        member.at.line,
        member.at.file.display()
    )
}

/// Scheme, port and family of a member against the service.
fn check_member(reports: &mut Reports, own: &SteerDraft, member: &Member, ports_differ: &mut bool) {
    let mut error = |message: String, help: &str| {
        reports.push(Severity::Error, own.mark.at(), message, help);
    };
    if member.socket.is_some() {
        let message = format!(
            "SteerPass {}: {} is behind a Unix socket, where no packet gets to",
            service(own),
            at_member(member)
        );
        error(message, "give it a balancer of its own");
        return;
    }
    let wrong = match (own.transport, member.scheme) {
        (Transport::Tcp, Scheme::Udp) => Some("tcp"),
        (Transport::Udp, Scheme::Tcp | Scheme::Http | Scheme::Https) => Some("udp"),
        _ => None,
    };
    if let Some(transport) = wrong {
        let message = format!(
            "SteerPass {}: {} does not speak {transport}",
            service(own),
            at_member(member)
        );
        error(message, "give it a balancer of its own");
        return;
    }
    if own.forward == Forward::Nat && member.port == 0 {
        let message = format!(
            "SteerPass {}: {} needs a port: forward=nat writes it into packets",
            service(own),
            at_member(member)
        );
        error(message, "write it as tcp://HOST:PORT or udp://HOST:PORT");
        return;
    }
    let keeps_ports = own.forward != Forward::Nat;
    let range = own.last_port != own.first_port;
    if keeps_ports && member.port != 0 && (range || member.port != own.first_port) && !*ports_differ
    {
        *ports_differ = true;
        let message = format!(
            "SteerPass {}: {} has port {}, and dsr, ipip and gue keep the service's port",
            service(own),
            at_member(member),
            member.port
        );
        let help = if range {
            "leave the member's port out (tcp://HOST), or use forward=nat"
        } else {
            "let the member listen on the service's port, or use forward=nat"
        };
        error(message, help);
    }
    let literal: Option<IpAddr> = member.host.parse().ok();
    if let (Forward::Nat, Some(vip), Some(ip)) = (own.forward, own.address, literal)
        && vip.is_ipv4() != ip.is_ipv4()
    {
        let message = format!(
            "SteerPass {}: {} is of the other address family, which forward=nat does not translate",
            service(own),
            at_member(member)
        );
        error(message, "use forward=ipip or forward=gue");
    }
}

/// A listener of the proxy and a steered service cannot be one.
fn check_listeners(reports: &mut Reports, own: &SteerDraft, listeners: &[Listener]) {
    if own.transport != Transport::Tcp {
        return;
    }
    for listener in listeners {
        let (ip, port) = (listener.address.ip(), listener.address.port());
        if !(own.first_port..=own.last_port).contains(&port) {
            continue;
        }
        let listens_on = (!ip.is_unspecified()).then_some(ip);
        if listens_on == own.address {
            let message = format!(
                "SteerPass {}: the proxy listens there (Listen {}, line {})",
                service(own),
                listener.address,
                listener.at.line
            );
            let help = "a packet goes to the proxy or to a member: use another address or port";
            reports.push(Severity::Error, own.mark.at(), message, help);
        } else if listens_on.is_none() || own.address.is_none() {
            let (first, rest) = match listens_on {
                None => ("steered", "proxied"),
                Some(_) => ("proxied", "steered"),
            };
            let exact = own.address.or(listens_on);
            let exact = exact.map_or_else(String::new, |ip| SocketAddr::new(ip, port).to_string());
            let message = format!(
                "packets to {exact} are {first}, those to port {port} of other addresses are {rest} (Listen in line {})",
                listener.at.line
            );
            reports.push(Severity::Notice, own.mark.at(), message, "");
        }
    }
}

/// Packets are steered by the ring whatever elects members for requests.
fn notice_method(draft: &mut Draft<'_>, own: &SteerDraft) {
    let given = (draft.hosts.iter().flat_map(|host| &host.balancers))
        .filter(|balancer| balancer.balancer.name == own.balancer)
        .any(|balancer| balancer.given.iter().any(|key| key == "lbmethod"));
    if given {
        let message = format!(
            "balancer://{}: lbmethod is for requests; SteerPass steers flows by a hash ring with the same load factors",
            own.balancer
        );
        let at = own.balancer_mark.at();
        draft.reports.push(Severity::Notice, at, message, "");
    }
}

/// Where members without a port are checked, and how those of UDP are, where it can be asked.
fn notice_checks(draft: &mut Draft<'_>, balancers: &[Balancer], steers: &[Steer]) {
    for (index, balancer) in balancers.iter().enumerate() {
        let checked = |member: &&Member| is_l4_alone(member) && member.health.check.is_some();
        let mut of_balancer = steers.iter().filter(|steer| steer.balancer == index);
        let Some(first) = of_balancer.next() else {
            continue;
        };
        let several = first.first_port != first.last_port || of_balancer.next().is_some();
        let mut members = balancer.members.iter().filter(checked);
        let udp = |member: &Member| member.scheme == Scheme::Udp;
        let portless = |member: &Member| member.port == 0 && several;
        let Some(member) = members.find(|member| udp(member) || portless(member)) else {
            continue;
        };
        let port = match member.port {
            0 => first.first_port,
            port => port,
        };
        let message = if udp(member) {
            format!(
                "balancer://{}: checks of udp:// members are made by TCP, to port {port}",
                balancer.name
            )
        } else {
            format!(
                "balancer://{}: members without a port are checked at port {port}, the first of the \
                 first SteerPass",
                balancer.name
            )
        };
        draft
            .reports
            .push_line(Severity::Notice, &member.at, message, "");
    }
}

const fn is_l4_alone(member: &Member) -> bool {
    matches!(member.scheme, Scheme::Tcp | Scheme::Udp)
}

/// Requests cannot go to members for L4 alone.
fn check_routes(draft: &mut Draft<'_>, names: &Names, balancers: &[Balancer]) {
    let mut found = Vec::new();
    for (index, host) in draft.hosts.iter().enumerate() {
        for route in host.routes.iter().chain(&host.location_routes) {
            let TargetDraft::Balancer { name, .. } = &route.target else {
                continue;
            };
            let balancer = names.balancer(index, name).map(|at| &balancers[at]);
            let member = balancer.and_then(|b| b.members.iter().find(|m| is_l4_alone(m)));
            if let Some(member) = member {
                let message = format!(
                    "ProxyPass to balancer://{name}: {} is for SteerPass alone",
                    at_member(member)
                );
                found.push((route.mark.clone(), message));
            }
        }
    }
    for (mark, message) in found {
        let help = "write it as http://HOST:PORT: such members take packets and requests";
        draft
            .reports
            .push(Severity::Error, mark.at(), message, help);
    }
}

/// Members for L4 that no packet goes to, and keys of theirs that mean nothing.
fn warn_unused(draft: &mut Draft<'_>, balancers: &[Balancer], steers: &[Steer]) {
    for (index, balancer) in balancers.iter().enumerate() {
        let mut members = balancer.members.iter().filter(|m| is_l4_alone(m));
        if let Some(first) = members.clone().next()
            && !steers.iter().any(|steer| steer.balancer == index)
        {
            let message = format!(
                "no SteerPass names balancer://{}: nothing goes to {}",
                balancer.name, first.url
            );
            draft
                .reports
                .push_line(Severity::Warning, &first.at, message, "");
        }
        let of_http = |member: &&Member| {
            member.ttl.is_some()
                || member.max.is_some()
                || member.acquire.is_some()
                || member.keepalive
                || member.disablereuse
                || !member.redirect.is_empty()
        };
        if let Some(member) = members.find(of_http) {
            let message = format!(
                "member {}: ttl, max, acquire, keepalive, disablereuse and redirect are for HTTP and have no effect here",
                member.url
            );
            draft
                .reports
                .push_line(Severity::Warning, &member.at, message, "");
        }
    }
    let nat = steers.iter().any(|steer| steer.forward == Forward::Nat);
    for source in &draft.spec.sluice.nat_sources {
        if !nat {
            let message = "SteerNatSource: no SteerPass has forward=nat";
            draft
                .reports
                .push_line(Severity::Warning, &source.at, message, "");
        }
    }
}

/// Without an interface nothing would be steered, and the host would answer for the VIP.
fn check_interfaces(draft: &mut Draft<'_>, steers: &[Steer]) {
    let Some(first) = steers.first() else { return };
    if draft.spec.sluice.interfaces.is_empty() {
        let message = "SteerPass without an XDPInterface steers nothing";
        let help = "name the interface that the packets come in by: XDPInterface eth0";
        draft
            .reports
            .push_line(Severity::Error, &first.at, message, help);
    }
}
