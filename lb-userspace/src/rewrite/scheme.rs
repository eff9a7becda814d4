//! What mod_rewrite takes for a URL.

/// A URL's scheme with what follows it.
pub(super) struct Scheme {
    /// Bytes up to the host.
    pub(super) len: usize,
    /// A query can follow.
    pub(super) has_query: bool,
}

/// The scheme that mod_rewrite takes a text's beginning for.
pub(super) fn scheme(uri: &[u8]) -> Option<Scheme> {
    const WITH_QUERY: [&str; 12] = [
        "ajp://",
        "balancer://",
        "fcgi://",
        "http://",
        "https://",
        "h2://",
        "h2c://",
        "mailto:",
        "scgi://",
        "ws://",
        "wss://",
        "unix:",
    ];
    const WITHOUT: [&str; 5] = ["ftp://", "gopher://", "ldap://", "news:", "nntp://"];
    if uri.len() <= 5 || uri[0] == b'/' {
        return None;
    }
    let begins = |scheme: &&&str| {
        uri.get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme.as_bytes()))
    };
    let of = |list: &[&str], has_query| {
        list.iter().find(begins).map(|scheme| Scheme {
            len: scheme.len(),
            has_query,
        })
    };
    of(&WITH_QUERY, true).or_else(|| of(&WITHOUT, false))
}
