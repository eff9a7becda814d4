//! What servers say of the connections to their members: where they come from, how much the kernel
//! keeps of what comes over them.

use std::net::IpAddr;

use super::{Names, tls::members::users};
use crate::config::{
    draft::{Draft, Mark},
    report::Severity,
    spec::{Balancer, Host},
};

/// Gives the members of each balancer what the servers that use it say.
pub(super) fn resolve(draft: &mut Draft<'_>, hosts: &[Host], list: &mut [Balancer], names: &Names) {
    for (index, balancer) in list.iter_mut().enumerate() {
        let mut views = users(hosts, names, index)
            .into_iter()
            .map(|host| view(draft, host));
        let Some(((source, receive_buffer), _)) = views.next() else {
            continue;
        };
        let differs = |(view, _): &(View, _)| *view != (source, receive_buffer);
        if let Some((_, Some(mark))) = views.find(differs) {
            let message = format!(
                "{} with another ProxySourceAddress or ProxyReceiveBufferSize in one virtual host than in another is not supported by this version of sluice",
                balancer.written()
            );
            let help =
                "write it outside of the virtual hosts, or define a balancer for each of them";
            let mark = mark.clone();
            (draft.reports).push(Severity::Error, mark.at(), message, help);
        }
        for member in &mut balancer.members {
            member.source = source;
            member.receive_buffer = member.receive_buffer.or(receive_buffer);
        }
    }
}

/// Address and buffer.
type View = (Option<IpAddr>, Option<u32>);

/// What a host says, or the main server; and where.
fn view<'d>(draft: &'d Draft<'_>, host: usize) -> (View, Option<&'d Mark>) {
    let (own, main) = (&draft.hosts[host], &draft.hosts[0]);
    let source = own.source_address.as_ref().or(main.source_address.as_ref());
    let buffer = own.receive_buffer.as_ref().or(main.receive_buffer.as_ref());
    let view = (
        source.map(|(address, _)| *address),
        buffer.and_then(|(bytes, _)| *bytes),
    );
    let mark = source.map(|(_, mark)| mark);
    (
        view,
        mark.or(buffer.map(|(_, mark)| mark)).or(own.mark.as_ref()),
    )
}
