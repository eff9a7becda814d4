//! URLs of workers: `scheme://host[:port][/path]`, made canonical as httpd does (apache.md 3.13).

/// A worker's URL in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkerUrl {
    /// Lower case.
    pub scheme: String,
    /// Lower case, without brackets.
    pub host: String,
    /// As given; `None`: the scheme's default.
    pub port: Option<u16>,
    /// From the first slash; may be empty.
    pub path: String,
}

/// Why a text is no URL of a worker; Display is what follows the directive's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    /// No scheme or no host.
    #[error("URL must be absolute!: {0}")]
    NotAbsolute(String),
    /// A port that is none, or characters that cannot be in a host.
    #[error("Unable to parse URL: {0}")]
    Unparsable(String),
}

impl WorkerUrl {
    /// Parses and lower-cases scheme and host. A user part is refused: httpd drops it silently.
    pub(crate) fn parse(text: &str) -> Result<Self, UrlError> {
        let absolute = || UrlError::NotAbsolute(text.to_owned());
        let unparsable = || UrlError::Unparsable(text.to_owned());
        let (scheme, rest) = text.split_once("://").ok_or_else(absolute)?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.');
        if scheme.is_empty() || !scheme.chars().all(plain) {
            return Err(absolute());
        }
        let (authority, path) = match rest.find(['/', '?', '#']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.is_empty() {
            return Err(absolute());
        }
        let (host, port) = split_authority(authority).ok_or_else(unparsable)?;
        if host.is_empty() {
            return Err(absolute());
        }
        if path.chars().any(|c| c.is_control() || c == ' ') {
            return Err(unparsable());
        }
        Ok(Self {
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_ascii_lowercase(),
            port,
            path: path.to_owned(),
        })
    }

    /// The port where it names none.
    fn default_port(&self) -> u16 {
        match self.scheme.as_str() {
            "https" => 443,
            // The port of the packet.
            "tcp" | "udp" => 0,
            _ => 80,
        }
    }

    /// Scheme, host and port; the port is left out where it is the scheme's.
    pub(crate) fn authority(&self) -> String {
        let (open, close) = if self.host.contains(':') {
            ("[", "]")
        } else {
            ("", "")
        };
        let port = match self.port {
            Some(port) if port != self.default_port() => format!(":{port}"),
            _ => String::new(),
        };
        format!("{}://{open}{}{close}{port}", self.scheme, self.host)
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port`; the host without brackets.
pub(crate) fn split_authority(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, tail) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        match tail.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if tail.is_empty() => (host, None),
            None => return None,
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | ':');
    if !host.chars().all(plain) {
        return None;
    }
    let port = match port {
        // `http://h:/` is a URL without a port (RFC 3986 section 3.2.3).
        None | Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().ok().filter(|port| *port != 0)?)
        }
        Some(_) => return None,
    };
    Some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_made_canonical() {
        for (text, name, path) in [
            ("http://H:80/App/", "http://h", "/App/"),
            ("HTTP://h:8080", "http://h:8080", ""),
            (
                "http://[2001:DB8::1]:81/x?y",
                "http://[2001:db8::1]:81",
                "/x?y",
            ),
            ("http://h:/", "http://h", "/"),
            ("https://h:443/", "https://h", "/"),
            ("https://h:80/", "https://h:80", "/"),
        ] {
            let url = WorkerUrl::parse(text).expect(text);
            assert_eq!((url.authority().as_str(), url.path.as_str()), (name, path));
        }
    }

    #[test]
    fn what_is_no_url_is_refused() {
        for text in [
            "foo",
            "http:///x",
            "http://",
            "http://:80",
            "://h",
            "http://h:x",
            "http://h:0",
            "http://h:65536",
            "http://[h]",
            "http://[::1",
            "http://u@h",
            "http://h\u{e9}/",
            "http://h/ x",
        ] {
            assert!(WorkerUrl::parse(text).is_err(), "{text}");
        }
    }
}
