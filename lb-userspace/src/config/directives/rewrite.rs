//! RewriteEngine, RewriteRule, RewriteCond, RewriteOptions, RewriteMap: mod_rewrite. The lines
//! themselves are read in [`crate::rewrite::parse`].

use super::{Arity, Call, Contexts, Directive, Effect, Fault, row};
use crate::{
    config::draft::{RewriteDraft, RewriteOptions, RuleDraft, TargetDraft},
    rewrite::{
        Function,
        parse::{self, ParseError, Target},
    },
};

pub(super) const TABLE: &[Directive] = &[
    row("RewriteEngine", Contexts::SERVER.and(Contexts::LOCATION), Arity::Flag, "On|Off",
        "whether rules are applied. In a <Location> it says so of the server's rules, for requests of that path",
        Effect::Apply(engine)).or("Off"),
    row("RewriteRule", Contexts::SERVER, Arity::Any, "PATTERN TARGET|- [FLAG,...]",
        "puts TARGET in the place of a path that matches, before ProxyPass sees it: [P] sends it to a member or balancer://, [R] sends the client there, [PT] has ProxyPass decide by the new path, [F], [G] and [R=4xx] refuse it. A virtual host has its own rules only. docs/http.md has all flags",
        Effect::Apply(rule)),
    row("RewriteCond", Contexts::SERVER, Arity::Any, "TEXT PATTERN [NC,OR]",
        "what must hold too for the next RewriteRule: a regular expression, !, <TEXT >TEXT =TEXT, -lt N and its kin; or RewriteCond expr EXPRESSION. Files are not looked at",
        Effect::Apply(condition)),
    row("RewriteOptions", Contexts::SERVER, Arity::Some, "Inherit|InheritBefore|InheritDown|InheritDownBefore|IgnoreInherit ...",
        "whether the main server's rules are a virtual host's as well, which must have rewriting directives of its own. Options about files are accepted and do nothing",
        Effect::Apply(options)),
    row("RewriteMap", Contexts::SERVER, Arity::TwoOrThree, "NAME int:tolower|toupper|escape|unescape",
        "a function that ${NAME:TEXT} applies, in the rules below it", Effect::Apply(map)),
];

fn draft<'c>(call: &'c mut Call<'_, '_>) -> &'c mut RewriteDraft {
    let host = call.scope.host;
    let draft = call.draft.rewrites.entry(call.scope.policy).or_default();
    draft.host = host;
    draft
}

fn engine(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let is_on = call.flag()?;
    draft(call);
    call.policy().rewriting.engine = Some(is_on);
    Ok(())
}

/// Maps that a line knows: its own place's.
fn maps(call: &mut Call<'_, '_>) -> Vec<(String, Function)> {
    draft(call).maps.clone()
}

fn refused(call: &Call<'_, '_>, error: &ParseError) -> Fault {
    let index = match error {
        ParseError::Flag(_)
        | ParseError::Delimiters
        | ParseError::Characters
        | ParseError::Status(_) => 2,
        ParseError::OpenProxy(_) | ParseError::Template(_) | ParseError::Expression(..) => 1,
        ParseError::Arguments(_) | ParseError::Pattern(_) | ParseError::NotHere(..) => 0,
    };
    Fault::new(format!("{}: {error}", call.row.name))
        .at(index)
        .help(error.help())
}

fn rule(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let maps = maps(call);
    let read = parse::rule(&call.node.raw, &maps).map_err(|error| refused(call, &error))?;
    for remark in read.remarks {
        call.warn(Fault::new(remark).at(1));
    }
    let target = match read.target {
        Some(target) => Some(proxied(call, &target)?),
        None => None,
    };
    let mark = call.mark(0);
    let draft = draft(call);
    let mut rule = read.rule;
    rule.conditions = std::mem::take(&mut draft.conditions)
        .into_iter()
        .map(|(condition, _)| condition)
        .collect();
    draft.rules.push(RuleDraft { rule, target, mark });
    Ok(())
}

/// Where a `[P]` rule leads; which worker takes it is settled when all are known, for in httpd a
/// rule makes none.
fn proxied(call: &mut Call<'_, '_>, target: &Target) -> Result<TargetDraft, Fault> {
    if let Some((name, _)) = super::balancer_name(&target.base) {
        let mark = call.mark(1);
        call.draft.balancer(call.scope.host, &name, &mark);
        return Ok(TargetDraft::Balancer {
            name,
            path: String::new(),
        });
    }
    let whole = format!("{}{}", target.base, target.path);
    let url = super::keys::worker_url(&whole)
        .map_err(|why| Fault::new(format!("RewriteRule {why}")).at(1))?;
    Ok(TargetDraft::Worker {
        url: format!("{}{}", url.authority(), url.path),
        path: String::new(),
    })
}

fn condition(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let maps = maps(call);
    let (condition, remarks) =
        parse::condition(&call.node.raw, &maps).map_err(|error| refused(call, &error))?;
    for remark in remarks {
        call.warn(Fault::new(remark).at(0));
    }
    let mark = call.mark(0);
    draft(call).conditions.push((condition, mark));
    Ok(())
}

fn options(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let mut options = draft(call).options.unwrap_or_default();
    for index in 0..call.count() {
        let word = call.arg(index).to_ascii_lowercase();
        let RewriteOptions {
            inherit,
            before,
            down,
            down_before,
            ignore,
        } = &mut options;
        match word.as_str() {
            "inherit" => *inherit = true,
            "inheritbefore" => *before = true,
            "inheritdown" => *down = true,
            "inheritdownbefore" => *down_before = true,
            "ignoreinherit" => *ignore = true,
            // What these are about is none of a proxy's.
            "allownoslash"
            | "allowanyuri"
            | "mergebase"
            | "ignorecontextinfo"
            | "legacyprefixdocroot"
            | "unsafeprefixstat" => {}
            other if other.starts_with("maxredirects=") => {
                let message = "RewriteOptions: MaxRedirects option has been removed in favor of the global LimitInternalRecursion directive and will be ignored.";
                call.warn(Fault::new(message).at(index));
            }
            _ => {
                let message = format!("RewriteOptions: unknown option '{}'", call.arg(index));
                return Err(Fault::new(message).at(index));
            }
        }
    }
    draft(call).options = Some(options);
    Ok(())
}

fn map(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let (name, source) = (call.arg(0).to_owned(), call.arg(1).to_owned());
    let Some(function) = source.strip_prefix("int:") else {
        let kind = source.split(':').next().unwrap_or_default().to_owned();
        return Err(super::not_yet(&format!("RewriteMap {kind}:")).at(1).help(
            "sluice has the internal functions alone: int:tolower, int:toupper, int:escape, int:unescape",
        ));
    };
    let Some(function) = Function::named(function) else {
        let message = format!("RewriteMap: internal map not found:{function}");
        return Err(Fault::new(message).at(1));
    };
    let maps = &mut draft(call).maps;
    maps.retain(|(known, _)| *known != name);
    maps.push((name, function));
    Ok(())
}
