//! Our directives of L4 steering. What they mean together with balancers and listeners is looked at
//! in `resolve/steer.rs`.

use std::net::IpAddr;

use super::{Arity, Call, Contexts, Directive, Effect, Fault, proxy, row};
use crate::config::{
    draft::SteerDraft,
    spec::{FlowHash, Forward, NatSource, Prefix, Transport},
};

pub(super) const TABLE: &[Directive] = &[
    row("SteerPass", Contexts::MAIN, Arity::Some,
        "tcp|udp://VIP:PORT[-PORT] balancer://NAME [forward=dsr|ipip|gue|nat] [hash=5tuple|source|quic[:LEN]] [onempty=drop|reset]",
        "packets to this address (* is every one) and these ports go to members of the balancer (docs/l4.md). dsr changes link-layer addresses alone, ipip and gue encapsulate, nat rewrites both addresses. A flow's member is found by hashing addresses and ports, the source address, or a QUIC server id of LEN bytes (1 to 15, default 2). With no member left packets are dropped, or answered with RST or ICMP unreachable",
        Effect::Apply(steer_pass)).or("dsr, 5tuple, drop"),
    row("SteerFlowTable", Contexts::MAIN, Arity::One, "N",
        "flows that the flow table holds, 1024 to 16777216, rounded up to a power of two; docs/l4.md has the memory it takes",
        Effect::Apply(steer_flow_table)).or("262144"),
    row("SteerDecap", Contexts::MAIN, Arity::One, "from=PREFIX[,PREFIX ...]",
        "this host is a member: packets that these sources encapsulated (ipip, gue) for one of its addresses are unwrapped",
        Effect::Apply(steer_decap)).or("nothing is unwrapped"),
    row("SteerNatSource", Contexts::MAIN, Arity::One, "ADDRESS[:PORT-PORT]",
        "source address and ports that members see with forward=nat; once for each family",
        Effect::Apply(steer_nat_source))
        .or("the interface's address, ports outside the host's ephemeral ones"),
];

/// Smallest and largest `SteerFlowTable`.
pub(crate) const FLOWS: std::ops::RangeInclusive<u32> = 1024..=1 << 24;
/// Bytes of a QUIC server id where `hash=quic` names none.
const SERVER_ID: u8 = 2;

fn steer_pass(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let (transport, address, (first_port, last_port)) =
        service(call.arg(0)).map_err(|fault| fault.at(0))?;
    let usage = "usage: SteerPass tcp|udp://VIP:PORT[-PORT] balancer://NAME [KEY=VALUE ...]";
    let named = proxy::balancer_name(call.arg(1)).filter(|(name, _)| !name.is_empty());
    let Some((name, tail)) = named else {
        let message = "SteerPass must name a balancer, balancer://NAME";
        return Err(Fault::new(message).at(1).help(usage));
    };
    if !tail.is_empty() && tail != "/" {
        let message = "SteerPass: a balancer without a path: packets have none";
        return Err(Fault::new(message).at(1).help(usage));
    }
    let mut draft = SteerDraft {
        transport,
        address,
        first_port,
        last_port,
        balancer: name,
        forward: Forward::default(),
        hash: FlowHash::default(),
        reset_on_empty: false,
        mark: call.mark(0),
        balancer_mark: call.mark(1),
    };
    let mut given: Vec<String> = Vec::new();
    for index in 2..call.count() {
        let word = call.arg(index).to_owned();
        let fault = |message: String| Fault::new(message).at(index);
        let Some((key, value)) = word.split_once('=') else {
            return Err(fault(format!("SteerPass: '{word}' is not KEY=VALUE")).help(usage));
        };
        let key = key.to_ascii_lowercase();
        if given.contains(&key) {
            return Err(fault(format!("SteerPass: {key}= is given twice")));
        }
        let value = value.to_ascii_lowercase();
        match key.as_str() {
            "forward" => {
                draft.forward = match value.as_str() {
                    "dsr" => Forward::Dsr,
                    "ipip" => Forward::IpIp,
                    "gue" => Forward::Gue,
                    "nat" => Forward::Nat,
                    _ => {
                        return Err(fault(format!("SteerPass: '{value}' is no way to forward"))
                            .help("expected forward=dsr, ipip, gue or nat"));
                    }
                }
            }
            "hash" => {
                draft.hash = hash(&value).ok_or_else(|| {
                    fault(format!("SteerPass: '{value}' is no hash"))
                        .help("expected hash=5tuple, source, quic or quic:LEN with LEN 1 to 15")
                })?;
            }
            "onempty" => {
                draft.reset_on_empty = match value.as_str() {
                    "drop" => false,
                    "reset" => true,
                    _ => {
                        let message = format!("SteerPass: '{value}' is nothing to do on empty");
                        return Err(fault(message).help("expected onempty=drop or onempty=reset"));
                    }
                }
            }
            _ => {
                let near =
                    crate::config::value::nearest(&key, ["forward", "hash", "onempty"].into_iter());
                let help = near.map(|name| format!("did you mean {name}=?"));
                return Err(fault(format!("unknown SteerPass parameter '{key}'"))
                    .help(help.unwrap_or_default()));
            }
        }
        given.push(key);
    }
    if matches!(draft.hash, FlowHash::Quic { .. }) && transport == Transport::Tcp {
        let message = "SteerPass: hash=quic is for udp:// services";
        return Err(Fault::new(message).at(0));
    }
    if draft.forward == Forward::Nat && address.is_none() {
        let message = "SteerPass: forward=nat needs an address: answers come from it";
        return Err(Fault::new(message)
            .at(0)
            .help("write the VIP in place of *"));
    }
    let same = |known: &&SteerDraft| {
        known.transport == transport
            && known.address == address
            && known.first_port <= last_port
            && first_port <= known.last_port
    };
    if let Some(known) = call.draft.steers.iter().find(same) {
        let message = format!(
            "SteerPass: line {} steers some of these ports of this address already",
            known.mark.line
        );
        return Err(Fault::new(message).at(0));
    }
    call.draft.steers.push(draft);
    super::guard::needs_dataplane(call);
    Ok(())
}

/// Transport, address (`None`: every one), first and last port.
type Service = (Transport, Option<IpAddr>, (u16, u16));

/// `tcp://VIP:PORT[-PORT]` in its parts.
fn service(text: &str) -> Result<Service, Fault> {
    let expected = "expected for example tcp://192.0.2.1:443, udp://[2001:db8::1]:443 or tcp://192.0.2.1:5000-5099";
    let wrong = |what: &str| Fault::new(format!("SteerPass: {what}")).help(expected);
    let (transport, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("tcp") => (Transport::Tcp, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("udp") => (Transport::Udp, rest),
        _ => return Err(wrong(&format!("'{text}' is neither tcp:// nor udp://"))),
    };
    let Some((host, ports)) = rest.rsplit_once(':') else {
        return Err(wrong(&format!("'{text}' has no port")));
    };
    let address = match host {
        "*" => None,
        host => {
            let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
            let ip = match bracketed {
                Some(v6) => v6.parse().map(IpAddr::V6).ok(),
                None => host.parse().map(IpAddr::V4).ok(),
            };
            let ip: IpAddr =
                ip.ok_or_else(|| wrong(&format!("'{host}' is not an IP address or *")))?;
            let ip = ip.to_canonical();
            if ip.is_multicast() || ip.is_loopback() || is_broadcast(ip) {
                return Err(wrong(&format!("{ip} cannot be a service's address")));
            }
            (!ip.is_unspecified()).then_some(ip)
        }
    };
    let ports = port_range(ports).ok_or_else(|| {
        wrong(&format!(
            "'{ports}' is neither a port from 1 to 65535 nor a range of them"
        ))
    })?;
    Ok((transport, address, ports))
}

fn is_broadcast(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V4(v4) if v4.is_broadcast())
}

/// `PORT` or `PORT-PORT`, the second not below the first.
fn port_range(text: &str) -> Option<(u16, u16)> {
    let port = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        text.parse().ok().filter(|port| digits && *port != 0u16)
    };
    match text.split_once('-') {
        None => port(text).map(|port| (port, port)),
        Some((first, last)) => {
            let (first, last) = (port(first)?, port(last)?);
            (first <= last).then_some((first, last))
        }
    }
}

fn hash(value: &str) -> Option<FlowHash> {
    match value {
        "5tuple" => Some(FlowHash::FiveTuple),
        "source" => Some(FlowHash::Source),
        "quic" => Some(FlowHash::Quic {
            server_id: SERVER_ID,
        }),
        _ => {
            let len = value.strip_prefix("quic:")?;
            let digits = len.bytes().all(|b| b.is_ascii_digit());
            let server_id = len
                .parse()
                .ok()
                .filter(|n| digits && (1..=15).contains(n))?;
            Some(FlowHash::Quic { server_id })
        }
    }
}

fn steer_flow_table(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let text = call.arg(0);
    let flows = (text.parse().ok())
        .filter(|flows: &u32| FLOWS.contains(flows) && !text.starts_with('+'))
        .ok_or_else(|| {
            Fault::new(format!("SteerFlowTable: '{text}' is not a number of flows"))
                .at(0)
                .help(format!("expected {} to {}", FLOWS.start(), FLOWS.end()))
        })?;
    if call.draft.spec.sluice.flow_table.is_some() {
        return Err(Fault::new("SteerFlowTable: there is one already"));
    }
    call.draft.spec.sluice.flow_table = Some(flows);
    super::guard::needs_dataplane(call);
    Ok(())
}

fn steer_decap(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let help = "expected for example from=192.0.2.0/24,2001:db8::/32";
    let word = call.arg(0).to_owned();
    let list = match word.split_once('=') {
        Some((key, list)) if key.eq_ignore_ascii_case("from") => list,
        _ => {
            let message = format!("SteerDecap: '{word}' is not from=PREFIX,...");
            return Err(Fault::new(message).at(0).help(help));
        }
    };
    for text in list.split(',') {
        let prefix: Prefix = text
            .parse()
            .map_err(|error| Fault::new(format!("SteerDecap: {error}")).at(0).help(help))?;
        if prefix.len == 0 {
            let message = format!("SteerDecap: {text} is everybody: name the balancers' addresses");
            return Err(Fault::new(message).at(0));
        }
        call.draft.spec.sluice.decap_from.push(prefix);
    }
    super::guard::needs_dataplane(call);
    Ok(())
}

fn steer_nat_source(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let text = call.arg(0).to_owned();
    let help = "expected for example 192.0.2.9, 192.0.2.9:20000-29999 or [2001:db8::9]:20000-29999";
    let wrong = |what: String| {
        Fault::new(format!("SteerNatSource: {what}"))
            .at(0)
            .help(help)
    };
    let (host, ports) = if let Ok(v6) = text.parse::<std::net::Ipv6Addr>() {
        (IpAddr::V6(v6), None)
    } else {
        let (host, ports) = match text.rsplit_once(':') {
            Some((host, ports)) => (host, Some(ports)),
            None => (text.as_str(), None),
        };
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let ip = match bracketed {
            Some(v6) => v6.parse().map(IpAddr::V6).ok(),
            None => host.parse().map(IpAddr::V4).ok(),
        };
        (
            ip.ok_or_else(|| wrong(format!("'{host}' is not an IP address")))?,
            ports,
        )
    };
    let address = host.to_canonical();
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        return Err(wrong(format!("{address} cannot be a source")));
    }
    let ports = match ports {
        None => None,
        Some(ports) => Some(
            port_range(ports)
                // Flows of one member beyond its ports are refused: fewer than this is a slip.
                .filter(|(first, last)| *first >= 1024 && last - first >= 63)
                .ok_or_else(|| {
                    wrong(format!(
                        "'{ports}' is not a range of at least 64 ports from 1024 to 65535"
                    ))
                })?,
        ),
    };
    let sluice = &mut call.draft.spec.sluice;
    let family = address.is_ipv4();
    if let Some(known) = (sluice.nat_sources.iter()).find(|s| s.address.is_ipv4() == family) {
        let message = format!(
            "there is one of this family already, in line {}",
            known.at.line
        );
        return Err(wrong(message));
    }
    let at = call.place();
    let source = NatSource { address, ports, at };
    call.draft.spec.sluice.nat_sources.push(source);
    super::guard::needs_dataplane(call);
    Ok(())
}
