//! That all peers do the same work, asked before anything is timed: a peer that does less would
//! look faster.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Result, ensure};

use super::Peer;
use crate::bench::l7::{
    client::Client,
    setup::{COOKIE, FACTORS, PATHS, ROUTES, Work, host},
    tls::Tls,
};

/// What a member was sent, as `/seen` tells it, and which member it is; in nginx' words.
pub(super) const SEEN: [&str; 8] = [
    "$http_x_forwarded_for",
    "$http_x_forwarded_host",
    "$http_x_forwarded_server",
    "$http_host",
    "$http_x_forwarded_proto",
    "$http_proxy",
    "$http_connection",
    "$server_addr:$server_port",
];
/// Places in [`SEEN`].
const CONNECTION: usize = 6;
const MEMBER: usize = 7;

/// Paths at which members tell it.
pub(super) fn seen_at() -> Vec<String> {
    let mut paths = vec!["/seen".to_owned(), far()];
    paths.extend(ROUTES.map(in_session));
    paths
}

/// Behind the last of many routes.
fn far() -> String {
    format!("/p{}/seen", PATHS - 1)
}

/// In a session that the path names.
fn in_session(route: &str) -> String {
    format!("/seen;{}=0123.{route}", COOKIE.to_ascii_lowercase())
}

impl Peer {
    /// Asks members through the proxy what they were sent.
    pub(in super::super) fn check(&self, members: &[SocketAddr], tls: &Tls) -> Result<()> {
        let address = self.address.to_string();
        match self.setup.work {
            Work::Hosts { hosts, passes } => {
                for number in [0, hosts - 1] {
                    self.check_host(&host(number), passes)?;
                }
            }
            Work::Pass | Work::Log | Work::Guide => {
                let mut clients = [
                    (Client::connect(self.address, "/seen")?, address),
                    (
                        Client::connect_tls(self.tls, "/seen", &tls.client(false)?)?,
                        self.tls.to_string(),
                    ),
                ];
                for (client, host) in &mut clients {
                    for _ in 0..4 {
                        self.expect(client, host, "bench.test")?;
                    }
                }
            }
        }
        if self.setup.work == Work::Guide {
            self.check_guide(members)?;
        }
        Ok(())
    }

    /// One answer of `/seen`; gives the member.
    fn expect(&self, client: &mut Client, host: &str, server: &str) -> Result<String> {
        let name = self.kind.name();
        let (head, seen) = client.exchange()?;
        let is_guide = self.setup.work == Work::Guide;
        ensure!(
            !is_guide
                || head
                    .to_ascii_lowercase()
                    .contains("\r\nstrict-transport-security: "),
            "{name}: the answer has no Strict-Transport-Security: {head:?}"
        );
        let proto = if is_guide { "https" } else { "" };
        let fields: Vec<_> = seen.split('|').collect();
        ensure!(
            fields.len() == SEEN.len()
                && fields[..CONNECTION] == ["127.0.0.1", host, server, host, proto, ""]
                && !fields[CONNECTION].eq_ignore_ascii_case("close"),
            "{name}: the member saw {seen:?}; Host was {host}"
        );
        Ok(fields[MEMBER].to_owned())
    }

    /// The far end of a virtual host's routes, and that there is nothing beyond it.
    fn check_host(&self, host: &str, passes: u32) -> Result<()> {
        let mut client = Client::connect_as(self.address, &far(), host, "")?;
        self.expect(&mut client, host, host)?;
        if passes > 1 {
            let beyond = format!("/p{PATHS}/seen");
            let answer = Client::connect_as(self.address, &beyond, host, "")?
                .exchange()
                .map(|(_, body)| body.to_owned());
            ensure!(
                answer.is_err(),
                "{}: {host}{beyond} has no route, but an answer: {answer:?}",
                self.kind.name()
            );
        }
        Ok(())
    }

    /// Sessions by cookie and by path stay with their member; those who have none are spread by
    /// weight, and none goes to the standby; `Proxy` arrives nowhere.
    fn check_guide(&self, members: &[SocketAddr]) -> Result<()> {
        let (name, address) = (self.kind.name(), self.address.to_string());
        for (route, wanted) in ROUTES.iter().zip(members).take(FACTORS.len()) {
            let cookie = format!("Cookie: a=b; {COOKIE}=0123.{route}\r\nProxy: 192.0.2.1\r\n");
            for (path, fields) in [("/seen", cookie.as_str()), (&in_session(route), "")] {
                let mut client = Client::connect_as(self.address, path, &address, fields)?;
                let found = self.expect(&mut client, &address, "bench.test")?;
                ensure!(
                    found == wanted.to_string(),
                    "{name}: a session of {route} went to {found}, not to {wanted}: {path} {fields}"
                );
            }
        }
        let mut turns = BTreeMap::<String, u32>::new();
        let mut client = Client::connect(self.address, "/seen")?;
        for _ in 0..10 * FACTORS.iter().sum::<u32>() {
            let member = self.expect(&mut client, &address, "bench.test")?;
            *turns.entry(member).or_default() += 1;
        }
        for (member, factor) in members.iter().zip(FACTORS) {
            let found = turns.remove(&member.to_string()).unwrap_or(0);
            ensure!(
                found.abs_diff(10 * factor) <= 2,
                "{name}: of 60 requests {found} went to the member with loadfactor={factor}"
            );
        }
        ensure!(
            turns.is_empty(),
            "{name}: the standby had requests: {turns:?}"
        );
        Ok(())
    }
}
