//! What a proxy does to header fields: hop-by-hop fields go, the forwarding fields come
//! (apache.md 6.1, 6.4; RFC 9110 section 7.6.1). Pure.

use http::header::{self, Entry, HeaderMap, HeaderName, HeaderValue};

use super::reverse;

/// `X-Forwarded-For`.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Host`.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `X-Forwarded-Server`.
pub const FORWARDED_SERVER: HeaderName = HeaderName::from_static("x-forwarded-server");
/// `Keep-Alive`.
pub const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// A set of the fields that a proxy has to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(u16);

impl Present {
    const CONNECTION: Self = Self(1);
    const TE: Self = Self(1 << 1);
    const TRAILER: Self = Self(1 << 2);
    const UPGRADE: Self = Self(1 << 3);
    const TRANSFER_ENCODING: Self = Self(1 << 4);
    const PROXY_AUTHENTICATE: Self = Self(1 << 5);
    const KEEP_ALIVE: Self = Self(1 << 6);
    const PROXY_CONNECTION: Self = Self(1 << 7);
    /// `Expect`.
    pub const EXPECT: Self = Self(1 << 8);
    /// `Server`.
    pub const SERVER: Self = Self(1 << 9);
    /// `Max-Forwards`.
    pub const MAX_FORWARDS: Self = Self(1 << 10);
    /// `Content-Length`.
    pub const CONTENT_LENGTH: Self = Self(1 << 11);
    /// A field whose value is a place, which `ProxyPassReverse` rewrites.
    pub const PLACE: Self = Self(1 << 12);

    /// What there is of them: one pass over the names, of which most are told apart by their
    /// lengths. A lookup would hash each name asked for.
    fn among(fields: &HeaderMap) -> Self {
        let mut present = 0;
        for name in fields.keys() {
            let one = match name.as_str().len() {
                2 if *name == header::TE => Self::TE,
                3 | 8 | 11 | 16 if reverse::PLACES.contains(name) => Self::PLACE,
                6 if *name == header::EXPECT => Self::EXPECT,
                6 if *name == header::SERVER => Self::SERVER,
                7 if *name == header::TRAILER => Self::TRAILER,
                7 if *name == header::UPGRADE => Self::UPGRADE,
                10 if *name == header::CONNECTION => Self::CONNECTION,
                10 if *name == KEEP_ALIVE => Self::KEEP_ALIVE,
                12 if *name == header::MAX_FORWARDS => Self::MAX_FORWARDS,
                14 if *name == header::CONTENT_LENGTH => Self::CONTENT_LENGTH,
                16 if *name == PROXY_CONNECTION => Self::PROXY_CONNECTION,
                17 if *name == header::TRANSFER_ENCODING => Self::TRANSFER_ENCODING,
                18 if *name == header::PROXY_AUTHENTICATE => Self::PROXY_AUTHENTICATE,
                _ => continue,
            };
            present |= one.0;
        }
        Self(present)
    }

    /// Whether a field is there.
    pub const fn has(self, one: Self) -> bool {
        self.0 & one.0 != 0
    }
}

/// The fields that [`strip`] takes out.
static HOP_BY_HOP: [(Present, HeaderName); 8] = [
    (Present::CONNECTION, header::CONNECTION),
    (Present::TE, header::TE),
    (Present::TRAILER, header::TRAILER),
    (Present::UPGRADE, header::UPGRADE),
    (Present::TRANSFER_ENCODING, header::TRANSFER_ENCODING),
    (Present::PROXY_AUTHENTICATE, header::PROXY_AUTHENTICATE),
    (Present::KEEP_ALIVE, KEEP_ALIVE),
    (Present::PROXY_CONNECTION, PROXY_CONNECTION),
];
/// All of them.
const ANY_HOP: Present = Present(0xff);

/// Whether [`strip`] or what goes by its findings looks at a field of this name.
pub fn is_looked_at(name: &HeaderName) -> bool {
    let hops = HOP_BY_HOP.iter();
    let mut known = hops.map(|(_, hop)| hop);
    known.any(|hop| hop == name) || matches!(*name, header::CONTENT_LENGTH | header::SERVER)
}

/// What the Connection field said, and what fields are left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// The one protocol that the Upgrade field asks for, if the Connection field names that field.
    pub upgrade: Option<HeaderValue>,
    /// Of the fields that are not taken out always: which there are.
    pub present: Present,
}

/// Which way a message goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// To a member.
    Request,
    /// To a client.
    Response,
}

/// Takes out the hop-by-hop fields and what the Connection field names, and returns what that field
/// said. One pass over the names; fields that are not there cost nothing.
///
/// The Connection field cannot be abused to take out what the proxy or the member relies on: Host,
/// the forwarding fields and the framing stay whatever it names (CVE-2022-31813).
pub fn strip(fields: &mut HeaderMap, direction: Direction) -> Connection {
    let mut present = Present::among(fields);
    let mut said = Connection::default();
    if present.has(Present::CONNECTION) {
        let mut named = Vec::new();
        let mut upgrade = false;
        for value in fields.get_all(header::CONNECTION) {
            for token in value.as_bytes().split(|&byte| byte == b',') {
                let token = token.trim_ascii();
                if token.eq_ignore_ascii_case(b"close") {
                    said.close = true;
                } else if token.eq_ignore_ascii_case(b"keep-alive") {
                    said.keep_alive = true;
                } else if token.eq_ignore_ascii_case(b"upgrade") {
                    // Taken out below, as always.
                    upgrade = true;
                } else if let Ok(name) = HeaderName::from_bytes(token)
                    && !is_protected(&name)
                {
                    named.push(name);
                }
            }
        }
        if upgrade && present.has(Present::UPGRADE) {
            said.upgrade = single_protocol(fields);
        }
        if !named.is_empty() {
            for name in named {
                fields.remove(name);
            }
            present = Present::among(fields);
        }
    }
    if present.has(ANY_HOP) {
        for (one, name) in &HOP_BY_HOP {
            let stays = *one == Present::PROXY_AUTHENTICATE && direction == Direction::Request;
            if present.has(*one) && !stays {
                fields.remove(name);
            }
        }
    }
    said.present = present;
    said
}

/// The value of the Upgrade field, if there is one such field and it names one protocol (RFC 9110
/// section 7.8): `name` or `name/version`.
fn single_protocol(fields: &HeaderMap) -> Option<HeaderValue> {
    let mut values = fields.get_all(header::UPGRADE).iter();
    let (value, None) = (values.next()?, values.next()) else {
        return None;
    };
    let text = value.as_bytes();
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(byte);
    (!text.is_empty() && text.iter().all(is_token)).then(|| value.clone())
}

fn is_protected(name: &HeaderName) -> bool {
    matches!(*name, header::HOST | header::CONTENT_LENGTH)
        || name.as_str().starts_with("x-forwarded-")
}

/// Appends a value to a field with `, `; several fields of the name become one.
pub fn append(fields: &mut HeaderMap, name: HeaderName, value: &HeaderValue) {
    match fields.entry(name) {
        Entry::Vacant(entry) => {
            entry.insert(value.clone());
        }
        Entry::Occupied(mut entry) => {
            let mut joined = Vec::new();
            for old in entry.iter() {
                joined.extend_from_slice(old.as_bytes());
                joined.extend_from_slice(b", ");
            }
            joined.extend_from_slice(value.as_bytes());
            // Values joined by a comma and a blank are a value; were it not so the old ones stay.
            if let Ok(joined) = HeaderValue::from_bytes(&joined) {
                entry.insert(joined);
            }
        }
    }
}

/// What a Max-Forwards field asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MaxForwards {
    /// None there, or not a number.
    Unlimited,
    /// This many more hops after this one.
    Left(u64),
    /// None: answer it here.
    Reached,
}

/// Reads Max-Forwards (RFC 9110 section 7.6.2); httpd minds it for every method.
pub fn max_forwards(fields: &HeaderMap) -> MaxForwards {
    let Some(value) = fields.get(header::MAX_FORWARDS) else {
        return MaxForwards::Unlimited;
    };
    let digits = value.as_bytes().trim_ascii();
    match std::str::from_utf8(digits)
        .ok()
        .and_then(|text| text.parse::<u64>().ok())
    {
        Some(0) => MaxForwards::Reached,
        Some(hops) => MaxForwards::Left(hops - 1),
        None => MaxForwards::Unlimited,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fields(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            map.append(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        map
    }

    fn names(map: &HeaderMap) -> Vec<String> {
        let mut names: Vec<_> = map.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn hop_by_hop_fields_and_what_connection_names_are_taken_out() {
        let mut map = fields(&[
            ("host", "h"),
            ("connection", "keep-alive, X-A"),
            ("connection", "x-b"),
            ("x-a", "1"),
            ("x-b", "1"),
            ("x-c", "1"),
            ("te", "trailers"),
            ("trailer", "x"),
            ("upgrade", "websocket"),
            ("keep-alive", "3"),
            ("proxy-connection", "x"),
            ("transfer-encoding", "chunked"),
            ("proxy-authorization", "z"),
            ("proxy-authenticate", "z"),
        ]);
        let said = strip(&mut map, Direction::Request);
        assert!(!said.close && said.keep_alive);
        assert_eq!(
            names(&map),
            ["host", "proxy-authenticate", "proxy-authorization", "x-c"]
        );
    }

    #[test]
    fn fields_that_connection_takes_out_are_not_told_as_left() {
        let mut map = fields(&[
            ("server", "x"),
            ("max-forwards", "3"),
            ("content-length", "3"),
            ("connection", "server"),
        ]);
        let present = strip(&mut map, Direction::Response).present;
        assert_eq!(names(&map), ["content-length", "max-forwards"]);
        assert!(present.has(Present::MAX_FORWARDS) && present.has(Present::CONTENT_LENGTH));
        assert!(!present.has(Present::SERVER) && !present.has(Present::EXPECT));
    }

    #[test]
    fn connection_cannot_take_out_what_the_member_relies_on() {
        let mut map = fields(&[
            ("host", "h"),
            ("content-length", "3"),
            ("x-forwarded-for", "1.2.3.4"),
            ("x-forwarded-proto", "https"),
            (
                "connection",
                "close, Host, Content-Length, X-Forwarded-For, x-forwarded-proto, ,\"",
            ),
        ]);
        let said = strip(&mut map, Direction::Request);
        assert!(said.close);
        assert_eq!(
            names(&map),
            [
                "content-length",
                "host",
                "x-forwarded-for",
                "x-forwarded-proto"
            ]
        );
    }

    #[test]
    fn responses_lose_their_proxy_authenticate() {
        let mut map = fields(&[("proxy-authenticate", "z"), ("server", "s"), ("date", "d")]);
        strip(&mut map, Direction::Response);
        assert_eq!(names(&map), ["date", "server"]);
    }

    #[test]
    fn upgrade_is_asked_for_by_one_protocol_that_connection_names() {
        let asked = |list: &[(&'static str, &'static str)]| {
            let mut map = fields(list);
            let said = strip(&mut map, Direction::Request);
            assert!(names(&map).is_empty(), "{list:?}");
            said.upgrade
        };
        let websocket = ("upgrade", "WebSocket");
        for connection in ["Upgrade", "keep-alive, upgrade", "upgrade,close"] {
            let asked = asked(&[("connection", connection), websocket]);
            assert_eq!(asked.expect("asked"), "WebSocket", "{connection}");
        }
        for none in [
            &[websocket][..],
            &[("connection", "keep-alive"), websocket],
            &[("connection", "upgraded"), websocket],
            &[("connection", "upgrade")],
            &[("connection", "upgrade"), websocket, websocket],
            &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
            &[("connection", "upgrade"), ("upgrade", "")],
            &[("connection", "upgrade"), ("upgrade", "a b")],
        ] {
            assert_eq!(asked(none), None, "{none:?}");
        }
    }

    #[test]
    fn forwarding_fields_are_appended_to() {
        let mut map = HeaderMap::new();
        let value = HeaderValue::from_static("5.6.7.8");
        append(&mut map, FORWARDED_FOR, &value);
        assert_eq!(map[FORWARDED_FOR], "5.6.7.8");
        map.append(FORWARDED_FOR, HeaderValue::from_static("9.9.9.9"));
        append(&mut map, FORWARDED_FOR, &value);
        assert_eq!(map[FORWARDED_FOR], "5.6.7.8, 9.9.9.9, 5.6.7.8");
        assert_eq!(map.get_all(FORWARDED_FOR).iter().count(), 1);
    }

    #[test]
    fn max_forwards_counts_down() {
        let read = |value| max_forwards(&fields(&[("max-forwards", value)]));
        assert_eq!(read("0"), MaxForwards::Reached);
        assert_eq!(read("3"), MaxForwards::Left(2));
        assert_eq!(read("x"), MaxForwards::Unlimited);
        assert_eq!(max_forwards(&HeaderMap::new()), MaxForwards::Unlimited);
    }

    proptest! {
        #[test]
        fn nothing_named_by_connection_survives_but_the_protected(
            list in prop::collection::vec("[a-z-]{1,9}", 0..6)
        ) {
            let mut map = HeaderMap::new();
            for name in &list {
                if let Ok(name) = HeaderName::try_from(name.as_str()) {
                    map.append(name, HeaderValue::from_static("v"));
                }
            }
            map.append("host", HeaderValue::from_static("h"));
            let mut connection = list.join(" ,");
            connection.push_str(",host");
            map.append("connection", HeaderValue::try_from(connection).expect("value"));
            strip(&mut map, Direction::Request);
            prop_assert!(map.contains_key("host"));
            prop_assert!(!map.contains_key("connection"));
            for name in &list {
                let protected = HeaderName::try_from(name.as_str())
                    .is_ok_and(|name| is_protected(&name));
                let kept = name == "close" || name == "keep-alive" || protected;
                prop_assert!(kept || !map.contains_key(name.as_str()));
            }
        }
    }
}
