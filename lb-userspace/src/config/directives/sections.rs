//! `<Location>`, `<LocationMatch>`, `<If>` and its kin: sections that are for some requests
//! (apache.md 1.3). `<Proxy>` is in [`super::balancer`].

use super::{Arity, Call, Contexts, Directive, Effect, Fault, Scope, Section, row};
use crate::{
    config::{
        spec::policy::{self, Branch, Matcher},
        syntax::glob,
    },
    expr::{Dialect, Expr},
    pattern::Pattern,
};

pub(super) const TABLE: &[Directive] = &[
    row(
        "<Location",
        Contexts::SERVER,
        Arity::Any,
        "[~] PATH",
        "settings for a path and what is below it, with wildcards for all that they match (* and ? match no slash), with ~ for what a regular expression matches. All sections that match count, in the order of the file; ProxyPass and ProxyPassReverse take their path from it",
        Effect::Section(location),
    ),
    row(
        "<LocationMatch",
        Contexts::SERVER,
        Arity::Any,
        "REGEX",
        "as <Location ~>",
        Effect::Section(location_match),
    ),
    row(
        "<If",
        Contexts::ALL,
        Arity::Any,
        "EXPRESSION",
        "settings for requests for which an expression holds; they come after those of all other sections",
        Effect::Section(if_section),
    ),
    row(
        "<ElseIf",
        Contexts::ALL,
        Arity::Any,
        "EXPRESSION",
        "where the <If> and <ElseIf> before it did not hold",
        Effect::Section(else_if),
    ),
    row(
        "<Else",
        Contexts::ALL,
        Arity::Any,
        "",
        "where none of the <If> and <ElseIf> before it held",
        Effect::Section(else_section),
    ),
];

/// A pattern of a section's argument.
pub(super) fn pattern(call: &Call<'_, '_>, index: usize) -> Result<Pattern, Fault> {
    Pattern::new(call.arg(index), false)
        .map_err(|_| Fault::new("Regex could not be compiled").at(index))
}

fn location(call: &mut Call<'_, '_>) -> Result<Scope, Fault> {
    match call.count() {
        0 => {
            let message = "<Location> directive requires additional arguments";
            return Err(Fault::new(message));
        }
        1 => {}
        2 if call.arg(0) == "~" => return matching(call, 1),
        _ => return Err(Fault::new("Multiple <Location> arguments not (yet) supported.").at(1)),
    }
    let path = call.arg(0).to_owned();
    if !path.starts_with('/') && !path.contains("://") {
        let message = format!("<Location {path}> matches no request");
        call.warn(Fault::new(message).at(0).help("paths begin with a slash"));
    }
    let (matcher, section) = if glob::is_pattern(&path) {
        (Matcher::Wildcard(path.clone()), Section::Wildcard(path))
    } else {
        (Matcher::Prefix(path.clone()), Section::Location(path))
    };
    Ok(open(call, matcher, section))
}

fn location_match(call: &mut Call<'_, '_>) -> Result<Scope, Fault> {
    match call.count() {
        0 => {
            let message = "<LocationMatch> directive requires additional arguments";
            Err(Fault::new(message))
        }
        1 => matching(call, 0),
        _ => Err(Fault::new("Multiple <LocationMatch> arguments not (yet) supported.").at(1)),
    }
}

fn matching(call: &mut Call<'_, '_>, index: usize) -> Result<Scope, Fault> {
    let pattern = pattern(call, index)?;
    let section = Section::LocationMatch(pattern.clone());
    Ok(open(call, Matcher::Pattern(pattern), section))
}

fn open(call: &mut Call<'_, '_>, matcher: Matcher, section: Section) -> Scope {
    let policy = call.draft.new_policy();
    call.host()
        .locations
        .push(policy::Section { matcher, policy });
    Scope {
        host: call.scope.host,
        section,
        policy,
        limit: None,
    }
}

fn if_section(call: &mut Call<'_, '_>) -> Result<Scope, Fault> {
    let condition = condition(call, "If")?;
    Ok(branch(call, true, Some(condition)))
}

fn else_if(call: &mut Call<'_, '_>) -> Result<Scope, Fault> {
    let condition = condition(call, "ElseIf")?;
    follows(call, "ElseIf")?;
    Ok(branch(call, false, Some(condition)))
}

fn else_section(call: &mut Call<'_, '_>) -> Result<Scope, Fault> {
    if call.count() > 0 {
        let message = "This directive does not take any arguments";
        return Err(Fault::new(message).at(0));
    }
    follows(call, "Else")?;
    Ok(branch(call, false, None))
}

/// An `<ElseIf>` or `<Else>` needs something to be the alternative of.
fn follows(call: &Call<'_, '_>, name: &str) -> Result<(), Fault> {
    let branches = &call.draft.spec.policies[call.scope.policy].branches;
    match branches.last() {
        Some(last) if last.condition.is_some() => Ok(()),
        _ => Err(Fault::new(format!(
            "<{name}> section without previous <If> or <ElseIf> section in same scope"
        ))),
    }
}

/// The expression of a section: one word.
fn condition(call: &Call<'_, '_>, name: &str) -> Result<Expr, Fault> {
    match call.count() {
        0 => {
            let message = format!("<{name}> directive requires additional arguments");
            return Err(Fault::new(message));
        }
        1 => {}
        _ => {
            let message = format!("Multiple <{name}> arguments not supported.");
            return Err(Fault::new(message)
                .at(1)
                .help("put the expression into quotes"));
        }
    }
    Expr::condition(call.arg(0), Dialect::Request)
        .map_err(|error| Fault::new(format!("Cannot parse condition clause: {error}")).at(0))
}

fn branch(call: &mut Call<'_, '_>, first: bool, condition: Option<Expr>) -> Scope {
    let policy = call.draft.new_policy();
    call.policy().branches.push(Branch {
        first,
        condition,
        policy,
    });
    Scope {
        host: call.scope.host,
        section: Section::If,
        policy,
        limit: None,
    }
}
