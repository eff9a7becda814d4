//! The peers' configuration files, made to do the same work. No process is started here.
//!
//! All have as many workers and members as the setup says, members by turns, the same forwarding
//! fields, the client's Host, kept connections on both sides without a limit on their requests, a
//! listener that defers accepting until data has come, and one that speaks TLS 1.3 with one suite,
//! one group, one certificate, tickets on, and offers HTTP/2.

mod haproxy;
mod httpd;
mod nginx;

use std::{net::SocketAddr, path::Path};

pub(super) use self::{
    haproxy::{haproxy, routes},
    httpd::{httpd, sluice},
    nginx::{nginx, nginx_head},
};
use super::super::setup::{Setup, Work};

/// What a configuration is made of.
pub(super) struct At<'a> {
    /// The peer's own folder.
    pub(super) dir: &'a Path,
    /// Where it accepts cleartext.
    pub(super) address: SocketAddr,
    /// Where it accepts TLS, and the folder with the certificate; members have none.
    pub(super) tls: Option<(SocketAddr, &'a Path)>,
    /// As many as the setup says.
    pub(super) members: &'a [SocketAddr],
    pub(super) setup: &'a Setup,
    /// Whether the peers have a user to become.
    pub(super) is_root: bool,
}

/// The access log's name.
pub(super) const LOG: &str = "access.log";
/// Who may come, in the guide's row: a network of nobody here, and this host.
const INSIDE: [&str; 2] = ["192.0.2.0/25", "127.0.0.0/8"];
/// What the guide's row sets in every answer.
const SECURITY: &str = "max-age=63072000";

impl At<'_> {
    fn when(condition: bool, text: String) -> String {
        if condition { text } else { String::new() }
    }

    fn log(&self) -> String {
        self.dir.join(LOG).display().to_string()
    }

    /// Text about TLS, if this peer has it.
    fn with_tls(&self, text: impl FnOnce(SocketAddr, &Path) -> String) -> String {
        self.tls
            .map_or_else(String::new, |(address, certificates)| {
                text(address, certificates)
            })
    }

    /// Text about a log, by whether it is the common format's or the combined one's.
    fn with_log(&self, text: impl FnOnce(bool) -> String) -> String {
        match self.setup.work {
            Work::Log => text(false),
            Work::Guide => text(true),
            Work::Pass | Work::Hosts { .. } => String::new(),
        }
    }
}

/// One line for each.
pub(super) fn lines<T>(items: &[T], line: impl Fn(&T) -> String) -> String {
    let lines: Vec<_> = items.iter().map(|item| line(item) + "\n").collect();
    lines.concat()
}
