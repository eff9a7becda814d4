//! The members: one nginx worker that answers from memory, on as many addresses of this host as any
//! row wants.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result};

use super::{
    Running,
    check::{SEEN, seen_at},
    configuration::{self, At, lines},
    launch, make_dir, path_of,
};
use crate::bench::l7::setup::{PATHS, PLAIN};

/// Running members. Dropping them ends them.
pub(in super::super) struct Members {
    /// Where.
    pub(in super::super) addresses: Vec<SocketAddr>,
    _running: Running,
}

/// Attempts at finding a port that is free on every address.
const ATTEMPTS: u32 = 20;
/// What a body is named, and its length in bytes.
const BODIES: [(&str, usize); 2] = [("small", 128), ("64k", 65_536)];

impl Members {
    /// Starts `count` of them, in 127.1.0.0/16. `/small`, and `/p0/small` and so on, have 128 bytes,
    /// `/64k` 65 536; `/seen` tells what the request said.
    pub(in super::super) fn start(dir: &Path, count: usize) -> Result<Self> {
        let dir = dir.join("members");
        make_dir(&dir)?;
        for (name, length) in BODIES {
            fs::write(dir.join(name), vec![b'x'; length])?;
        }
        for number in 0..PATHS {
            let below = dir.join(format!("p{number}"));
            make_dir(&below)?;
            fs::hard_link(dir.join("small"), below.join("small"))?;
        }
        let addresses = free_addresses(count)?;
        let listen = lines(&addresses, |address| {
            format!("        listen {address} backlog=4096;")
        });
        let at = At {
            dir: &dir,
            address: *addresses.first().context("no members")?,
            tls: None,
            members: &[],
            setup: &PLAIN[0],
            is_root: rustix::process::geteuid().is_root(),
        };
        let seen = lines(&seen_at(), |path| {
            format!(
                "        location = \"{path}\" {{\n            return 200 \"{}\";\n        }}",
                SEEN.join("|")
            )
        });
        let text = format!(
            "{}    open_file_cache max={};\n    sendfile on;\n    server {{\n{listen}        root {};\n\
             {seen}    }}\n}}\n",
            configuration::nginx_head(&at),
            2 * PATHS,
            dir.display(),
        );
        let file = dir.join("conf");
        fs::write(&file, text)?;
        let (running, _) = launch(Command::new(path_of("nginx")).arg("-c").arg(&file), &at)?;
        Ok(Self {
            addresses,
            _running: running,
        })
    }
}

/// Addresses of this host, all with one port, on which nobody listens.
fn free_addresses(count: usize) -> Result<Vec<SocketAddr>> {
    let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
    let last = first + u32::try_from(count)?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        let port = TcpListener::bind((Ipv4Addr::from(first), 0))?
            .local_addr()?
            .port();
        let addresses: Vec<_> = (first..last)
            .map(|ip| SocketAddr::from((Ipv4Addr::from(ip), port)))
            .collect();
        let bound: Result<Vec<_>, _> = addresses.iter().map(TcpListener::bind).collect();
        match bound {
            Ok(_) => return Ok(addresses),
            Err(error) if attempt == ATTEMPTS => {
                return Err(error).context("no port is free on the members' addresses");
            }
            Err(_) => {}
        }
    }
}
