//! `key=value` parameters of balancers (apache.md 4, DESIGN section 7).

use super::{BALANCER_KEYS, BALANCER_KEYS_NOT_YET, Problem, on_off, seconds, whole, wrong};
use crate::config::{
    directives::Call,
    draft::BalancerDraft,
    spec::{HashKey, LbMethod, Nonce, Sticky},
    value::{self, atoi},
};

/// Sets keys of a balancer of this host; each that is refused is an error of its own. `full` makes
/// the message of what is wrong.
pub(in super::super) fn set(
    call: &mut Call<'_, '_>,
    host: usize,
    name: &str,
    params: &[(usize, String, String)],
    full: impl Fn(&str) -> String,
) {
    for (index, key, value) in params {
        let Some(at) = call.draft.hosts[host]
            .balancers
            .iter()
            .position(|b| b.balancer.name == name)
        else {
            return;
        };
        let mut draft = call.draft.hosts[host].balancers[at].clone();
        match set_key(call, &mut draft, *index, key, value) {
            Ok(()) => {
                draft.given.push(key.to_ascii_lowercase());
                call.draft.hosts[host].balancers[at] = draft;
            }
            Err(problem) => {
                problem.report(call, *index, |why| full(&format!("{why} {key}={value}")));
            }
        }
    }
}

fn set_key(
    call: &mut Call<'_, '_>,
    draft: &mut BalancerDraft,
    index: usize,
    key: &str,
    value: &str,
) -> Result<(), Problem> {
    let balancer = &mut draft.balancer;
    match key.to_ascii_lowercase().as_str() {
        "lbmethod" => {
            // As httpd, which looks a provider up by its exact name.
            let found = LbMethod::NAMES.iter().find(|(name, _)| *name == value);
            let Some((_, method)) = found else {
                let names = LbMethod::NAMES.map(|(name, _)| name).join(", ");
                return Err(Problem::Expected("unknown lbmethod", names));
            };
            balancer.lbmethod = *method;
        }
        "stickysession" => {
            if value.len() >= 64 {
                return Err(wrong("stickysession length must be < 64 characters"));
            }
            let (cookie, path) = value.split_once('|').unwrap_or((value, value));
            balancer.sticky = (!value.is_empty()).then(|| Sticky {
                cookie: cookie.to_owned(),
                path: path.to_owned(),
                separator: Some('.'),
                scolonpathdelim: false,
                cookie_written: false,
            });
        }
        "stickysessionsep" => {
            let mut chars = value.chars();
            draft.separator = match (chars.next(), chars.next()) {
                (Some(c), None) => Some(c),
                _ if value::flag(value) == Some(false) => None,
                _ => return Err(wrong("stickysessionsep must be a single character or Off")),
            };
        }
        "scolonpathdelim" => {
            draft.scolonpathdelim = on_off(value, "scolonpathdelim must be On|Off")?;
        }
        "stickycookie" => {
            draft.cookie_written = on_off(value, "stickycookie must be On|Off")?;
        }
        "nofailover" => balancer.nofailover = on_off(value, "failover must be On|Off")?,
        "timeout" => {
            balancer.timeout =
                seconds(call, index, value, 1, "timeout must be at least one second")?;
        }
        "maxattempts" => {
            let why = "maximum number of attempts must be a positive number";
            balancer.maxattempts = Some(whole(call, index, value, 0, why)?);
        }
        "failonstatus" => {
            let mut codes = Vec::new();
            for code in value.split(',').filter(|code| !code.is_empty()) {
                let number = u16::try_from(atoi(code))
                    .ok()
                    .filter(|n| (100..=599).contains(n));
                codes.push(number.ok_or_else(|| {
                    wrong("failonstatus must be one or more HTTP response codes")
                })?);
            }
            codes.sort_unstable();
            codes.dedup();
            balancer.failonstatus = codes;
        }
        "failontimeout" => balancer.failontimeout = on_off(value, "failontimeout must be On|Off")?,
        "forcerecovery" => balancer.forcerecovery = on_off(value, "forcerecovery must be On|Off")?,
        "growth" => {
            let growth = u32::try_from(atoi(value)).ok();
            balancer.manage.growth = growth
                .filter(|n| (1..=100).contains(n))
                .ok_or_else(|| wrong("growth must be between 1 and 100"))?;
        }
        "nonce" => {
            if value.len() > 36 {
                return Err(wrong("Provided nonce is too large"));
            }
            balancer.manage.nonce = match value {
                _ if value.eq_ignore_ascii_case("none") => Nonce::Off,
                "" => Nonce::Random,
                _ => Nonce::Fixed(value.to_owned()),
            };
        }
        "hashkey" => balancer.beyond.hash_key = hash_key(value)?,
        "retrybudget" => {
            let why = "retrybudget must be a percentage between 1 and 100";
            balancer.beyond.retry_budget = Some(percent(call, index, value, why)?);
        }
        "ejectmax" => {
            let why = "ejectmax must be a percentage between 1 and 100";
            balancer.beyond.eject_max = Some(percent(call, index, value, why)?);
        }
        lower if BALANCER_KEYS_NOT_YET.contains(&lower) => {
            return Err(Problem::NotYet(format!("balancer key '{key}'")));
        }
        _ => {
            let names = BALANCER_KEYS.iter().map(|(name, ..)| *name);
            let known = names.chain(BALANCER_KEYS_NOT_YET.iter().copied());
            return Err(Problem::Unknown(
                "unknown Balancer parameter",
                value::nearest(key, known),
            ));
        }
    }
    Ok(())
}

/// 1 to 100; a `%` behind it is nothing wrong.
fn percent(call: &mut Call<'_, '_>, index: usize, value: &str, why: &str) -> Result<u32, Problem> {
    let value = value.strip_suffix('%').unwrap_or(value);
    let number = whole(call, index, value, 1, why)?;
    if number > 100 {
        return Err(wrong(why));
    }
    Ok(number)
}

fn hash_key(value: &str) -> Result<HashKey, Problem> {
    let lower = value.to_ascii_lowercase();
    let (kind, name) = value.split_once(':').unwrap_or((value, ""));
    // RFC 9110 section 5.6.2: names of fields and cookies are tokens.
    let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let named = !name.is_empty() && name.chars().all(is_token);
    match lower.as_str() {
        "source" => Ok(HashKey::Source),
        "path" => Ok(HashKey::Path),
        _ if named && kind.eq_ignore_ascii_case("header") => {
            Ok(HashKey::Header(name.to_ascii_lowercase()))
        }
        _ if named && kind.eq_ignore_ascii_case("cookie") => Ok(HashKey::Cookie(name.to_owned())),
        _ => Err(wrong(
            "hashkey must be source, header:NAME, cookie:NAME or path",
        )),
    }
}
