//! The balancer-manager (`SetHandler balancer-manager`, apache.md 9): what its page shows and what
//! a submission of it means. Pure: requests are `proxy::manager`'s, changes are carried out by
//! control.
//!
//! Fields, forms, tables and XML are httpd's, so that scripts made for it go on working; what is
//! beyond it is put on top (`?json=1`, states in words, a button for what is done most).

use std::fmt;

use lb_common::member::MemberState;
use serde::Serialize;

pub mod edit;
pub mod form;
mod html;
mod json;
pub mod kept;
mod xml;

pub use html::{Shown, page, policy};
pub use json::{json, outcome_json};
pub use xml::xml;

#[cfg(test)]
mod tests;

/// Everything that one page shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Name that the client asked for.
    pub host: String,
    /// Path of the page, as asked, escaped for a URL.
    pub path: String,
    /// In the order of the configuration.
    pub balancers: Vec<BalancerView>,
}

/// One balancer.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct BalancerView {
    /// As the virtual host calls it, without `balancer://`.
    pub name: String,
    /// Its name in the configuration, which is unique.
    #[serde(skip)]
    pub key: String,
    /// What changes must carry; empty: nothing can be changed.
    #[serde(skip)]
    pub nonce: String,
    /// `BalancerPersist`.
    pub persist: bool,
    /// `growth`.
    pub growth: u32,
    /// Members that may be added now.
    pub room: u32,
    /// Cookie and path parameter.
    #[serde(skip)]
    pub sticky: Option<(String, String)>,
    /// `scolonpathdelim`.
    #[serde(skip)]
    pub scolonpathdelim: bool,
    /// `nofailover`.
    pub nofailover: bool,
    /// `timeout`, s.
    pub timeout_seconds: u64,
    /// `maxattempts`, where given.
    pub maxattempts: Option<u32>,
    /// `lbmethod`.
    pub lbmethod: &'static str,
    /// Path of the first ProxyPass that leads to it.
    pub path: String,
    /// Its members.
    pub workers: Vec<WorkerView>,
}

/// One member.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct WorkerView {
    /// URL.
    pub url: String,
    /// `http` or `https`.
    #[serde(skip)]
    pub scheme: &'static str,
    /// Without brackets.
    #[serde(skip)]
    pub hostname: String,
    /// Port.
    #[serde(skip)]
    pub port: u16,
    /// Times 100.
    pub lbfactor: u32,
    /// Set.
    pub lbset: u8,
    /// `route`.
    pub route: String,
    /// `redirect`.
    pub redirect: String,
    /// State bits.
    #[serde(skip)]
    pub state: MemberState,
    /// Since it is in error, s.
    pub error_seconds: Option<u64>,
    /// `retry`, s.
    pub retry_seconds: u64,
    /// Retries since its last success.
    pub retries: u64,
    /// Times it was elected.
    pub elected: u64,
    /// Requests in flight.
    pub busy: u64,
    /// Credit.
    pub lbstatus: i64,
    /// Bytes to it.
    pub transferred: u64,
    /// Bytes from it.
    pub read: u64,
    /// `max`; 0: no limit.
    #[serde(skip)]
    pub max: u32,
    /// `ttl`, s; 0: none.
    #[serde(skip)]
    pub ttl_seconds: u64,
    /// `timeout`, s, where given.
    #[serde(skip)]
    pub timeout_seconds: Option<u64>,
    /// `acquire`, ms, where given.
    #[serde(skip)]
    pub acquire_ms: Option<u64>,
    /// `connectiontimeout`, ms, where given.
    #[serde(skip)]
    pub connection_timeout_ms: Option<u64>,
    /// `keepalive`.
    #[serde(skip)]
    pub keepalive: bool,
    /// `disablereuse`.
    #[serde(skip)]
    pub disablereuse: bool,
    /// How its health is checked, as `hcmethod` calls it.
    #[serde(skip)]
    pub hc_method: &'static str,
    /// `hcinterval`, ms.
    #[serde(skip)]
    pub hc_interval_ms: u64,
    /// `hcpasses`.
    #[serde(skip)]
    pub hc_passes: u32,
    /// `hcfails`.
    #[serde(skip)]
    pub hc_fails: u32,
    /// `hcuri`.
    #[serde(skip)]
    pub hc_uri: String,
    /// It has an `hcexpr`.
    #[serde(skip)]
    pub hc_expr: bool,
}

/// What became of a submission.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; what, in a line.
    Done(String),
    /// Not done: nothing has changed. Why, in a line.
    Refused(String),
}

impl WorkerView {
    /// httpd's words, in its order, each followed by a space (apache.md 9.3).
    pub fn status(&self) -> String {
        const WORDS: [(u64, &str); 8] = [
            (MemberState::IGNORE_ERRORS, "Ign "),
            (MemberState::DRAIN, "Drn "),
            (MemberState::DISABLED, "Dis "),
            (MemberState::STOPPED, "Stop "),
            (MemberState::ERROR, "Err "),
            (MemberState::STANDBY, "Stby "),
            (MemberState::SPARE, "Spar "),
            (MemberState::HEALTH_FAILED, "HcFl "),
        ];
        let mut text = "Init ".to_owned();
        let set = WORDS.iter().filter(|(bit, _)| self.state.has(*bit));
        text.extend(set.map(|(_, word)| *word));
        if self.state.is_usable() {
            text.push_str("Ok ");
        }
        text
    }

    /// What its state means for requests: a class of the style sheet and words.
    pub fn in_words(&self) -> (&'static str, String) {
        let state = self.state;
        let mut words = Vec::new();
        let mut class = "ok";
        let mut say = |bit: u64, text: &str, kind: &'static str| {
            if state.has(bit) {
                if class == "ok" {
                    class = kind;
                }
                words.push(text.to_owned());
            }
        };
        say(MemberState::STOPPED, "stopped", "off");
        say(MemberState::DISABLED, "disabled", "off");
        say(MemberState::HEALTH_FAILED, "health check failed", "bad");
        if let Some(since) = self.error_seconds {
            let left = self.retry_seconds.saturating_sub(since);
            let text = format!("in error, tried again in {left} s");
            say(MemberState::ERROR, &text, "bad");
        } else {
            say(MemberState::ERROR, "in error", "bad");
        }
        say(
            MemberState::DRAIN,
            "draining: existing sessions only",
            "warn",
        );
        say(MemberState::STANDBY, "standby", "idle");
        say(MemberState::SPARE, "spare", "idle");
        if words.is_empty() {
            words.push("in use".to_owned());
        }
        (class, words.join("; "))
    }

    /// Whether an operator has taken it out, wholly or for new sessions.
    pub fn is_out(&self) -> bool {
        let bits = MemberState::DISABLED | MemberState::DRAIN | MemberState::STOPPED;
        self.state.has(bits)
    }
}

/// Text in HTML and XML, in content and in quoted attributes.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write as _;
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // What XML cannot hold at all.
                '\0'..='\x08' | '\x0b' | '\x0c' | '\x0e'..='\x1f' | '\u{fffe}' | '\u{ffff}' => {
                    f.write_char('\u{fffd}')?;
                }
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// Text in the query of a URL, to be decoded twice (apache.md 9.2); what httpd leaves as it is, is
/// left.
struct InQuery<'a>(&'a str);

impl fmt::Display for InQuery<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'0'..=b'9'
                | b'a'..=b'z'
                | b'A'..=b'Z'
                | b'-'
                | b'.'
                | b'_'
                | b'~'
                | b':'
                | b'/'
                | b'@'
                | b','
                | b'!'
                | b'$'
                | b'*'
                | b'('
                | b')'
                | b'|' => {
                    write!(f, "{}", char::from(byte))?;
                }
                // The percent sign itself is decoded twice.
                b'%' => f.write_str("%2525")?,
                _ => write!(f, "%{byte:02x}")?,
            }
        }
        Ok(())
    }
}

/// Hundredths as httpd's `%.2f`.
struct Factor(u32);

impl fmt::Display for Factor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// Bytes as apr_strfsize writes them, four columns.
fn size(bytes: u64) -> String {
    const UNITS: [char; 6] = ['K', 'M', 'G', 'T', 'P', 'E'];
    if bytes < 973 {
        return format!("{bytes:3} ");
    }
    let mut size = bytes;
    for unit in UNITS {
        let remain = size & 1023;
        size >>= 10;
        if size >= 973 {
            continue;
        }
        if size < 9 || (size == 9 && remain < 973) {
            let mut tenths = (remain * 5 + 256) / 512;
            let mut whole = size;
            if tenths >= 10 {
                whole += 1;
                tenths = 0;
            }
            return format!("{whole}.{tenths}{unit}");
        }
        let rounded = size + u64::from(remain >= 512);
        return format!("{rounded:3}{unit}");
    }
    "****".to_owned()
}
