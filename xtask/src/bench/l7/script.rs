//! Requests that are not all the same: a script for wrk, which gets one from it for each it sends.
//! What the script costs is the client's, not the peer's.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use super::{
    cases::{Case, Drive},
    setup::{COOKIE, HOSTS, PATHS, ROUTES, host},
};

/// Writes the script of a row into a peer's folder.
pub(super) fn write(dir: &Path, case: &Case, address: SocketAddr) -> Result<PathBuf> {
    let file = dir.join("requests.lua");
    let text = match case.drive {
        Drive::Spread => spread(case.path),
        _ => sessions(case.path, address),
    };
    fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
    Ok(file)
}

/// Every path of every host before any comes again, each far from the last: the step shares no factor
/// with how many there are.
fn spread(path: &str) -> String {
    let name = host(0).replacen('0', "\" .. (n - p) / {PATHS} .. \"", 1);
    let name = name.replace("{PATHS}", &PATHS.to_string());
    format!(
        "local n = 0\nfunction request()\n  n = (n + {STEP}) % {}\n  local p = n % {PATHS}\n  \
         return \"GET /p\" .. p .. \"{path} HTTP/1.1\\r\\nHost: {name}\\r\\n\\r\\n\"\nend\n",
        HOSTS * PATHS
    )
}

const STEP: u32 = 61_803;

/// Three of four requests have a session: two with the member of the larger `loadfactor`, one with
/// the other; the cookie stands between two that mean nothing.
fn sessions(path: &str, address: SocketAddr) -> String {
    let request = |cookie: &str| {
        format!(
            "\"GET {path} HTTP/1.1\\r\\nHost: {address}\\r\\nUser-Agent: wrk\\r\\nAccept: */*\\r\\n\
             {cookie}\\r\\n\""
        )
    };
    let of = |route: &str| {
        request(&format!(
            "Cookie: theme=dark; {COOKIE}=8A1FD0C3B7E24956.{route}; lang=en\\r\\n"
        ))
    };
    format!(
        "local requests = {{\n  {},\n  {},\n  {},\n  {},\n}}\nlocal n = 0\nfunction request()\n  \
         n = n % #requests + 1\n  return requests[n]\nend\n",
        of(ROUTES[0]),
        request(""),
        of(ROUTES[1]),
        of(ROUTES[0]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_reaches_every_path_of_every_host() {
        let all = HOSTS * PATHS;
        let mut reached = vec![false; all as usize];
        let mut n = 0;
        for _ in 0..all {
            n = (n + STEP) % all;
            reached[n as usize] = true;
        }
        assert!(reached.into_iter().all(|is_reached| is_reached));
    }

    #[test]
    fn spread_names_hosts_as_the_configurations_do() {
        let script = spread("/small");
        assert!(script.contains("Host: h\" .. (n - p) / 100 .. \".bench.test\\r\\n"));
        assert!(script.contains("GET /p\" .. p .. \"/small "));
    }
}
