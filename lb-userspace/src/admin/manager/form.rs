//! What a client sent: parameters as httpd reads them, and the changes that they ask for
//! (apache.md 9.2).

use std::collections::BTreeMap;

use super::edit::{Letter, Setting};
use crate::{admin::protocol::MemberChange, config::spec::LbMethod};

/// Bytes of a body that are read; what follows is not looked at.
pub const MOST_BYTES: usize = 1024;

/// Parameters. Of one that is given twice the last counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Params(BTreeMap<String, String>);

impl Params {
    /// Of a GET: `b`, `w`, `nonce`, `xml` and, beyond httpd, `json`; others are left out.
    pub fn of_query(query: &str) -> Self {
        let mut params = Self::parse(query.as_bytes());
        params
            .0
            .retain(|name, _| ["b", "w", "nonce", "xml", "json"].contains(&name.as_str()));
        params
    }

    /// Of a POST's body.
    pub fn of_body(body: &[u8]) -> Self {
        Self::parse(&body[..body.len().min(MOST_BYTES)])
    }

    fn parse(text: &[u8]) -> Self {
        let mut params = BTreeMap::new();
        for pair in text.split(|byte| *byte == b'&') {
            let equals = pair.iter().position(|byte| *byte == b'=');
            let (name, value) = pair.split_at(equals.unwrap_or(pair.len()));
            let value = value.get(1..).unwrap_or_default();
            if !name.is_empty() {
                params.insert(text_of(name), text_of(value));
            }
        }
        Self(params)
    }

    /// The value of a parameter.
    pub fn value(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there is anything but what says which page is wanted.
    pub fn ask_for_change(&self) -> bool {
        let of_page = ["b", "w", "nonce", "xml", "json"];
        self.0.keys().any(|name| !of_page.contains(&name.as_str()))
    }
}

/// Decoded twice, ended by the first zero byte, as httpd's C does; `+` is no space.
fn text_of(raw: &[u8]) -> String {
    let decoded = decode(&decode(raw));
    let end = decoded.iter().position(|byte| *byte == 0);
    String::from_utf8_lossy(&decoded[..end.unwrap_or(decoded.len())]).into_owned()
}

/// `%XX`; what is none stays.
fn decode(raw: &[u8]) -> Vec<u8> {
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut out = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some((first, more)) = rest.split_first() {
        rest = more;
        match (first, digit(more.first()), digit(more.get(1))) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                rest = &more[2..];
            }
            _ => out.push(*first),
        }
    }
    out
}

/// A text field's longest value, bytes (a route, a cookie's name, `hcuri`).
const LONGEST: usize = 63;

/// What a submission asks of a member, and what of it is left out and why.
///
/// A value out of range is left out, as in httpd; unlike there it is said.
pub fn of_member(params: &Params) -> (Vec<Setting>, Vec<String>) {
    let mut settings = Vec::new();
    let mut ignored = Vec::new();
    let mut ignore = |name: &str, value: &str, why: &str| {
        ignored.push(format!("{name}={value} was not used: {why}"));
    };
    for (name, value) in &params.0 {
        let number = leading_integer(value);
        match name.as_str() {
            "w_lf" => match factor(value) {
                Some(lbfactor) => {
                    settings.push(Setting::Slot(MemberChange::LoadFactor { lbfactor }));
                }
                None => ignore(name, value, "a load factor is 1 to 100"),
            },
            "w_ls" => match u8::try_from(number).ok().filter(|set| *set <= 99) {
                Some(lbset) => settings.push(Setting::Slot(MemberChange::LbSet { lbset })),
                None => ignore(name, value, "a set is 0 to 99"),
            },
            "w_wr" | "w_rr" | "w_hu" if value.contains(char::is_control) => {
                ignore(name, "...", "control characters");
            }
            // Too long is as good as empty.
            "w_wr" => settings.push(Setting::Route(bounded(value))),
            "w_rr" => settings.push(Setting::Redirect(bounded(value))),
            "w_hu" => settings.push(Setting::HealthUri(bounded(value))),
            "w_he" if value.is_empty() => {}
            "w_he" => settings.push(Setting::HealthExpr(value.clone())),
            "w_hm" => match check(value) {
                Some(setting) => settings.push(setting),
                None => ignore(name, value, "no such method of health checks"),
            },
            "w_hi" => match u64::try_from(number).ok().filter(|ms| *ms >= 100) {
                Some(ms) => settings.push(Setting::HealthIntervalMs(ms)),
                None => ignore(name, value, "an interval has at least 100 ms"),
            },
            "w_hp" | "w_hf" => match u32::try_from(number).ok().filter(|count| *count >= 1) {
                Some(count) if name == "w_hp" => settings.push(Setting::HealthPasses(count)),
                Some(count) => settings.push(Setting::HealthFails(count)),
                None => ignore(name, value, "at least 1"),
            },
            name => {
                let letter = name.strip_prefix("w_status_").and_then(Letter::parse);
                if let Some(letter) = letter {
                    settings.push(Setting::Status(letter, number != 0));
                }
            }
        }
    }
    (settings, ignored)
}

/// As [`of_member`], of a balancer.
pub fn of_balancer(params: &Params) -> (Vec<Setting>, Vec<String>) {
    let mut settings = Vec::new();
    let mut ignored = Vec::new();
    let mut ignore = |name: &str, value: &str, why: &str| {
        ignored.push(format!("{name}={value} was not used: {why}"));
    };
    for (name, value) in &params.0 {
        let number = leading_integer(value);
        match name.as_str() {
            "b_lbm" => match lbmethod(value) {
                Some(lbmethod) => settings.push(Setting::LbMethod(lbmethod)),
                None => ignore(name, value, "this version has no such lbmethod"),
            },
            "b_tmo" => match u64::try_from(number).ok().filter(|s| *s <= 7200) {
                Some(seconds) => settings.push(Setting::TimeoutSeconds(seconds)),
                None => ignore(name, value, "a timeout is 0 to 7200 s"),
            },
            "b_max" => match u32::try_from(number).ok().filter(|n| *n <= 99) {
                Some(attempts) => settings.push(Setting::MaxAttempts(attempts)),
                None => ignore(name, value, "attempts are 0 to 99"),
            },
            "b_sforce" => settings.push(Setting::NoFailover(number != 0)),
            "b_ss" if value == "-" => settings.push(Setting::Sticky(None)),
            // The form sends it for a balancer without.
            "b_ss" if value.is_empty() => {}
            "b_ss" if value.contains(char::is_control) => {
                ignore(name, "...", "control characters");
            }
            "b_ss" if value.len() > LONGEST => ignore(name, value, "at most 63 bytes"),
            "b_ss" => {
                let (cookie, path) = value.split_once('|').unwrap_or((value, value));
                settings.push(Setting::Sticky(Some((cookie.to_owned(), path.to_owned()))));
            }
            "b_nwrkr" if params.value("b_wyes") == Some("1") && !value.is_empty() => {
                settings.push(Setting::Add(value.clone()));
            }
            "b_nwrkr" if !value.is_empty() => ignore(name, value, "b_wyes=1 was not given"),
            _ => {}
        }
    }
    (settings, ignored)
}

fn bounded(value: &str) -> String {
    if value.len() > LONGEST {
        return String::new();
    }
    value.to_owned()
}

/// C's atoi.
fn leading_integer(text: &str) -> i64 {
    let text = text.trim_start();
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let end = digits
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(digits.len());
    digits[..end]
        .parse::<i64>()
        .map_or(0, |number| sign * number)
}

/// A load factor times 100: what of the text is a number, 1 to 100, two decimals.
fn factor(text: &str) -> Option<u32> {
    let text = text.trim_start();
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let value: f64 = text[..end].parse().ok()?;
    if !(1.0..=100.0).contains(&value) {
        return None;
    }
    #[expect(clippy::cast_sign_loss, reason = "between 1 and 100, checked above")]
    let hundredths = (value * 100.0) as u32;
    Some(hundredths)
}

/// An lbmethod by its name, which is compared as it stands.
fn lbmethod(name: &str) -> Option<LbMethod> {
    super::edit::LBMETHODS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, method)| *method)
}

/// A method of health checks by its name, in any case.
fn check(name: &str) -> Option<Setting> {
    super::edit::CHECKS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, check)| Setting::HealthMethod(*check))
}
