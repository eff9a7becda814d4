//! Names of the variables that requests have without a directive setting them: what a configuration may
//! ask for. Their values are the proxy's.

/// mod_proxy_balancer's, mod_ssl's that need no certificate of the client, and our own.
const NAMES: [&str; 17] = [
    "BALANCER_NAME",
    "BALANCER_ROUTE_CHANGED",
    "BALANCER_SESSION_ROUTE",
    "BALANCER_SESSION_STICKY",
    "BALANCER_WORKER_NAME",
    "BALANCER_WORKER_ROUTE",
    "HTTPS",
    "SLUICE_REASON",
    "SSL_CIPHER",
    "SSL_CIPHER_ALGKEYSIZE",
    "SSL_CIPHER_EXPORT",
    "SSL_CIPHER_USEKEYSIZE",
    "SSL_CLIENT_VERIFY",
    "SSL_COMPRESS_METHOD",
    "SSL_PROTOCOL",
    "SSL_SESSION_RESUMED",
    "SSL_TLS_SNI",
];

/// mod_ssl's of a client's certificate, without those of parts of its names.
pub(crate) const OF_CLIENTS: [&str; 8] = [
    "SSL_CLIENT_CERT",
    "SSL_CLIENT_I_DN",
    "SSL_CLIENT_M_SERIAL",
    "SSL_CLIENT_M_VERSION",
    "SSL_CLIENT_S_DN",
    "SSL_CLIENT_V_END",
    "SSL_CLIENT_V_REMAIN",
    "SSL_CLIENT_V_START",
];

/// Whether requests may have a variable of this name, in any case.
pub(crate) fn is_known(name: &str) -> bool {
    let is = |known: &str| known.eq_ignore_ascii_case(name);
    NAMES.iter().chain(&OF_CLIENTS).any(|known| is(known)) || part_of_name(name).is_some()
}

/// `SSL_CLIENT_S_DN_x509` and `SSL_CLIENT_I_DN_x509`, with `_n` for the nth of several: whether it is
/// the subject's, the part as RFC 4514 and OpenSSL call it, and n.
pub(crate) fn part_of_name(name: &str) -> Option<(bool, &'static str, usize)> {
    let upper = name.to_ascii_uppercase();
    let (is_subject, part) = if let Some(part) = upper.strip_prefix("SSL_CLIENT_S_DN_") {
        (true, part)
    } else {
        (false, upper.strip_prefix("SSL_CLIENT_I_DN_")?)
    };
    let (part, number) = match part.split_once('_') {
        Some((part, number)) if number.bytes().all(|byte| byte.is_ascii_digit()) => {
            (part, number.parse().ok()?)
        }
        Some(_) => return None,
        None => (part, 0),
    };
    let (_, kind) = PARTS.iter().find(|(known, _)| *known == part)?;
    Some((is_subject, kind, number))
}

/// mod_ssl's names of the parts of a distinguished name.
const PARTS: [(&str, &str); 15] = [
    ("C", "C"),
    ("ST", "ST"),
    ("SP", "ST"),
    ("L", "L"),
    ("O", "O"),
    ("OU", "OU"),
    ("CN", "CN"),
    ("T", "title"),
    ("I", "initials"),
    ("G", "GN"),
    ("S", "SN"),
    ("D", "description"),
    ("UID", "UID"),
    ("EMAIL", "emailAddress"),
    ("DC", "DC"),
];

/// Names of mod_ssl's variables that a text asks for: `%{SSL_X}`, `%{SSL:SSL_X}`, `reqenv('SSL_X')`.
pub(crate) fn asked_for(text: &str) -> impl Iterator<Item = &str> {
    const BEGIN: &str = "SSL_";
    text.match_indices(BEGIN).filter_map(|(at, _)| {
        let before = text[..at].chars().next_back()?;
        if !matches!(before, '{' | ':' | '\'' | '"') {
            return None;
        }
        let rest = &text[at..];
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let end = rest.find(|c: char| !is_part(c)).unwrap_or(rest.len());
        (end > BEGIN.len()).then_some(&rest[..end])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_names_are_mod_ssls() {
        assert_eq!(
            part_of_name("SSL_CLIENT_S_DN_Email"),
            Some((true, "emailAddress", 0))
        );
        assert_eq!(part_of_name("ssl_client_i_dn_OU_2"), Some((false, "OU", 2)));
        for unknown in [
            "SSL_CLIENT_S_DN",
            "SSL_CLIENT_S_DN_",
            "SSL_CLIENT_S_DN_X",
            "SSL_CLIENT_S_DN_CN_RAW",
            "SSL_CLIENT_S_DN_CN_99999999999999999999",
            "SSL_SERVER_S_DN_CN",
        ] {
            assert_eq!(part_of_name(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn texts_are_searched_where_a_name_may_stand() {
        let found = |text| asked_for(text).collect::<Vec<_>>();
        assert_eq!(
            found("a %{SSL_PROTOCOL}s %{SSL:SSL_SERVER_S_DN} env('SSL_X') =~ /SSL_Y/ \u{fc}SSL_Z"),
            ["SSL_PROTOCOL", "SSL_SERVER_S_DN", "SSL_X"]
        );
        assert_eq!(found("SSL_PROTOCOL"), [""; 0]);
        assert_eq!(found("%{SSL_"), [""; 0]);
    }
}
