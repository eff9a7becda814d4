//! ProxyHCExpr, ProxyHCTemplate, and the `hc` keys of members (apache.md 3.16 and 4).

use super::{
    Arity, Call, Contexts, Directive, Effect, Fault,
    keys::{Problem, wrong},
    row,
};
use crate::{
    config::{
        spec::{Check, Health},
        syntax::lexer,
        value::{self, Unit, atoi},
    },
    expr::{Dialect, Expr},
};

pub(super) const TABLE: &[Directive] = &[
    row(
        "ProxyHCExpr",
        Contexts::SERVER,
        Arity::Some,
        "NAME {EXPRESSION}",
        "names a condition for hcexpr=: it sees %{REQUEST_STATUS}, %{resp:FIELD} and hc('body') of the answer; NAME has at most 15 characters and is used below this line",
        Effect::Apply(expression),
    ),
    row(
        "ProxyHCTemplate",
        Contexts::SERVER,
        Arity::Some,
        "NAME KEY=VALUE ...",
        "names a set of hc keys for hctemplate=, used below this line",
        Effect::Apply(template),
    ),
    row(
        "ProxyHCTPsize",
        Contexts::MAIN,
        Arity::One,
        "N",
        "threads of httpd's health checks",
        Effect::Notice("health checks need no threads of their own: ProxyHCTPsize has no effect"),
    ),
];

fn expression(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let name = call.arg(0).to_owned();
    if name.len() > LONGEST_NAME {
        let message = format!("Expression name limited to {LONGEST_NAME} characters");
        return Err(Fault::new(message).at(0));
    }
    let raw = call.node.raw.clone();
    let rest = lexer::rest_after_word(&raw);
    let (text, rest) = lexer::braced(rest);
    if text.is_empty() {
        return Err(Fault::new("Missing expression for ProxyHCExpr")
            .help("usage: ProxyHCExpr NAME {EXPRESSION}"));
    }
    let expr = Expr::condition(&text, Dialect::HealthCheck)
        .map_err(|why| Fault::new(format!("Could not parse expression \"{text}\": {why}")).at(1))?;
    if !rest.is_empty() {
        return Err(Fault::new("error: extra parameter(s)")
            .at(2)
            .help("put the whole expression into { }"));
    }
    call.host().health_exprs.push((name, expr));
    Ok(())
}

fn template(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let name = call.arg(0).to_owned();
    // Unlike a member, a template checks where it does not say how.
    let mut health = Health {
        check: Some(Check::Tcp),
        ..Health::default()
    };
    for index in 1..call.count() {
        let Some((key, value)) = call.arg(index).split_once('=') else {
            return Err(Fault::new(
                "Invalid ProxyHCTemplate parameter. Parameter must be in the form 'key=value'",
            )
            .at(index));
        };
        let (key, value) = (key.to_owned(), value.to_owned());
        if let Err(problem) = set(call, &mut health, &key, &value) {
            let full = |why: &str| format!("ProxyHCTemplate: {why} {key}={value}; {name}");
            problem.report(call, index, full);
        }
    }
    call.host().health_templates.push((name, health));
    Ok(())
}

/// Sets one `hc` key, which must be lower case for the message alone.
pub(super) fn set(
    call: &mut Call<'_, '_>,
    health: &mut Health,
    key: &str,
    value: &str,
) -> Result<(), Problem> {
    match key.to_ascii_lowercase().as_str() {
        "hctemplate" => {
            let templates = &call.host().health_templates;
            let found = templates
                .iter()
                .find(|(name, _)| name.eq_ignore_ascii_case(value));
            let Some((_, template)) = found else {
                return Err(wrong(&format!("Unknown ProxyHCTemplate name: {value}")));
            };
            *health = template.clone();
        }
        "hcmethod" => {
            health.check = match value.to_ascii_lowercase().as_str() {
                "none" => None,
                "tcp" => Some(Check::Tcp),
                "options" => Some(Check::Options),
                "head" => Some(Check::Head),
                "get" => Some(Check::Get),
                "options11" => Some(Check::Options11),
                "head11" => Some(Check::Head11),
                "get11" => Some(Check::Get11),
                "cping" => return Err(Problem::NotYet(format!("hcmethod={value}"))),
                "provider" => {
                    let why = format!("Health check method {value} not (yet) implemented");
                    return Err(Problem::Wrong(why));
                }
                _ => return Err(wrong("Unknown method")),
            };
        }
        "hcpath" => match value.to_ascii_lowercase().as_str() {
            "direct" => {}
            "tunnel" => {
                let why = "hcpath=tunnel cannot be had: a member answers a check that comes through the \
                           tunnel as the VIP, which this host may hold itself and then takes for forged; \
                           use hcpath=direct, and a check on the VIP from elsewhere";
                return Err(wrong(why));
            }
            _ => return Err(wrong("hcpath must be direct")),
        },
        "hcinterval" => {
            let interval = value::time(value, Unit::Seconds)
                .ok_or_else(|| wrong("Unparse-able hcinterval setting"))?;
            if interval < Health::SHORTEST {
                let why = "Interval must be a positive value greater than 100ms";
                return Err(wrong(why));
            }
            health.interval = interval;
        }
        "hcpasses" => health.passes = count(value, "Passes must be a positive value")?,
        "hcfails" => health.fails = count(value, "Fails must be a positive value")?,
        "hcuri" => {
            if value.len() >= LONGEST_URI {
                let why = format!("Health check uri length must be < {LONGEST_URI} characters");
                return Err(Problem::Wrong(why));
            }
            let is_clean = value.bytes().all(|byte| (0x21..0x7F).contains(&byte));
            if !is_clean {
                return Err(wrong("hcuri must be visible ASCII characters"));
            }
            value.clone_into(&mut health.uri);
        }
        "hcexpr" => {
            let exprs = &call.host().health_exprs;
            // The last of a name counts, and names are compared as header fields are.
            let found = exprs
                .iter()
                .rev()
                .find(|(name, _)| name.eq_ignore_ascii_case(value));
            let Some((_, expr)) = found else {
                let why = format!("Unknown health check condition expr: {value}");
                return Err(Problem::Wrong(why));
            };
            health.expr = Some(expr.clone());
        }
        _ => return Err(wrong("unknown Worker hcheck parameter")),
    }
    Ok(())
}

fn count(value: &str, why: &str) -> Result<u32, Problem> {
    u32::try_from(atoi(value)).map_err(|_| wrong(why))
}

/// Longest name of an expression.
const LONGEST_NAME: usize = 15;

/// One more than the longest `hcuri`.
const LONGEST_URI: usize = 64;
