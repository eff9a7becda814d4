//! HeartbeatListen and HeartbeatStorage (mod_heartmonitor, mod_lbmethod_heartbeat).

use std::net::{SocketAddr, SocketAddrV4};

use super::{Arity, Call, Contexts, Directive, Effect, Fault, row};
use crate::config::value::atoi;

pub(super) const TABLE: &[Directive] = &[
    row(
        "HeartbeatListen",
        Contexts::MAIN,
        Arity::One,
        "ADDRESS:PORT",
        "where heartbeats of members come in, for lbmethod=heartbeat: a multicast group, or an address of this host (not httpd's)",
        Effect::Apply(listen),
    ),
    row(
        "HeartbeatStorage",
        Contexts::MAIN,
        Arity::One,
        "FILE",
        "file with members' heartbeats, read where there is no HeartbeatListen; sluice writes none",
        Effect::Apply(storage),
    )
    .or("logs/hb.dat"),
    row(
        "HeartbeatMaxServers",
        Contexts::MAIN,
        Arity::One,
        "NUMBER",
        "room for heartbeats in httpd's shared memory, above 10",
        Effect::Apply(max_servers),
    ),
];

fn listen(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if call.draft.spec.heartbeat.listen.is_some() {
        return Err(Fault::new("HeartbeatListen: May only be specified once.").at(0));
    }
    let text = call.arg(0);
    let address: Option<SocketAddr> = text.parse().ok();
    let Some(address) = address else {
        let message = match text.rsplit_once(':') {
            _ if text.parse::<std::net::IpAddr>().is_ok() => {
                "HeartbeatListen: No port provided in multicast address"
            }
            None if text.bytes().all(|byte| byte.is_ascii_digit()) => {
                "HeartbeatListen: No host provided in multicast address"
            }
            _ => "HeartbeatListen: Unable to parse multicast address.",
        };
        return Err(Fault::new(message)
            .at(0)
            .help("usage: HeartbeatListen 239.0.0.1:27999"));
    };
    if address.port() == 0 {
        let message = "HeartbeatListen: No port provided in multicast address";
        return Err(Fault::new(message).at(0));
    }
    if !address.ip().is_multicast() {
        let message = format!(
            "{address} is no multicast address: heartbeats are taken that are sent to it, httpd takes none"
        );
        call.notice(Fault::new(message).at(0));
    }
    call.draft.spec.heartbeat.listen = Some(match address {
        SocketAddr::V6(v6) => v6.ip().to_ipv4_mapped().map_or(address, |ip| {
            SocketAddr::V4(SocketAddrV4::new(ip, v6.port()))
        }),
        SocketAddr::V4(_) => address,
    });
    Ok(())
}

fn storage(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if call.arg(0).is_empty() {
        return Err(Fault::new("HeartbeatStorage: no file").at(0));
    }
    let path = call.draft.server_root.join(call.arg(0));
    call.draft.spec.heartbeat.storage = Some(path);
    Ok(())
}

fn max_servers(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if atoi(call.arg(0)) <= 10 {
        return Err(Fault::new("HeartbeatMaxServers: Should be bigger than 10").at(0));
    }
    let message = "HeartbeatMaxServers has no effect: there is room for every member";
    call.notice(Fault::new(message));
    Ok(())
}
