//! RewriteEngine, RewriteRule, RewriteCond, RewriteOptions, RewriteBase, RewriteMap: mod_rewrite. The lines
//! themselves are read in [`crate::rewrite::parse`].

use std::io;

use super::{Arity, Call, Contexts, Directive, Effect, Fault, row};
use crate::{
    config::{
        draft::{RewriteDraft, RuleDraft, TargetDraft},
        spec::policy::Matcher,
    },
    rewrite::{
        Function, MapFile, Options,
        parse::{self, ParseError, Target},
    },
};

pub(super) const TABLE: &[Directive] = &[
    row("RewriteEngine", Contexts::ALL, Arity::Flag, "On|Off",
        "whether rules are applied. In a section it says so of that section's rules and of those of sections after it, in a <Location> of the server's too",
        Effect::Apply(engine)).or("Off"),
    row("RewriteRule", Contexts::ALL, Arity::Any, "PATTERN TARGET|- [FLAG,...]",
        "puts TARGET in the place of a path that matches, before ProxyPass sees it: [P] sends it to a member or balancer://, [R] sends the client there, [PT] has ProxyPass decide by the new path, [F], [G] and [R=4xx] refuse it. A virtual host has its own rules only. In a section the last that is for a request has its rules applied, after ProxyPass and Require: PATTERN sees proxy:URL where ProxyPass has sent the request to a member. docs/http.md has all flags",
        Effect::Apply(rule)),
    row("RewriteCond", Contexts::ALL, Arity::Any, "TEXT PATTERN [NC,OR]",
        "what must hold too for the next RewriteRule: a regular expression, !, <TEXT >TEXT =TEXT, -lt N and its kin; or RewriteCond expr EXPRESSION. Files are not looked at",
        Effect::Apply(condition)),
    row("RewriteOptions", Contexts::ALL, Arity::Some, "Inherit|InheritBefore|InheritDown|InheritDownBefore|IgnoreInherit|MergeBase ...",
        "whether the main server's rules are a virtual host's as well, and those of a section the next one's, which must have rewriting directives of its own. Options about files are accepted and do nothing",
        Effect::Apply(options)),
    row("RewriteBase", Contexts::SECTIONS, Arity::One, "PATH",
        "what takes the place of the section's own path where a rule's result begins with that", Effect::Apply(base)),
    row("RewriteMap", Contexts::SERVER, Arity::TwoOrThree, "NAME int:tolower|toupper|escape|unescape|[txt:]FILE|rnd:FILE",
        "what ${NAME:KEY|DEFAULT} stands for in the rules below it: a function, or the value behind KEY in a line of FILE, with rnd: one of several between bars. FILE is read with the configuration, so that a reload reads it again; it may have 1 MiB",
        Effect::Apply(map)),
];

/// Longest file of a RewriteMap.
const LONGEST_MAP: u64 = 1 << 20;

fn draft<'c>(call: &'c mut Call<'_, '_>) -> &'c mut RewriteDraft {
    let host = call.scope.host;
    if !call.is_for_server() {
        let directory = directory(call);
        call.policy().rewriting.directory = Some(directory);
    }
    let draft = call.draft.rewrites.entry(call.scope.policy).or_default();
    draft.host = host;
    draft
}

/// What a section's rules take for the directory they stand in: its argument.
fn directory(call: &Call<'_, '_>) -> String {
    let host = &call.draft.hosts[call.scope.host];
    let mut sections = host.locations.iter().chain(&host.proxies);
    let own = sections.find(|section| section.policy == call.scope.policy);
    let mut path = match own.map(|section| &section.matcher) {
        Some(Matcher::Prefix(text) | Matcher::Wildcard(text)) => text.clone(),
        Some(Matcher::Pattern(pattern)) => pattern.text().to_owned(),
        None => "*If".to_owned(),
    };
    if !path.ends_with('/') {
        path.push('/');
    }
    path
}

fn base(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let base = call.arg(0).to_owned();
    if base.is_empty() {
        return Err(Fault::new("RewriteBase: empty URL not allowed").at(0));
    }
    if !base.starts_with('/') {
        let message = "RewriteBase: argument is not a valid URL";
        return Err(Fault::new(message)
            .at(0)
            .help("expected a path that begins with a slash"));
    }
    draft(call);
    call.policy().rewriting.base = Some(base);
    Ok(())
}

fn engine(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let is_on = call.flag()?;
    draft(call);
    call.policy().rewriting.engine = Some(is_on);
    Ok(())
}

/// Maps that a line knows: those of the server or virtual host that it is in.
fn maps(call: &mut Call<'_, '_>) -> Vec<(String, Function)> {
    let server = call.draft.hosts[call.scope.host].policy;
    let draft = call.draft.rewrites.get(&server);
    draft.map(|draft| draft.maps.clone()).unwrap_or_default()
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
        let Options {
            inherit,
            before,
            down,
            down_before,
            ignore,
            merge_base,
        } = &mut options;
        match word.as_str() {
            "inherit" => *inherit = true,
            "inheritbefore" => *before = true,
            "inheritdown" => *down = true,
            "inheritdownbefore" => *down_before = true,
            "ignoreinherit" => *ignore = true,
            "mergebase" => *merge_base = true,
            // What these are about is none of a proxy's.
            "allownoslash"
            | "allowanyuri"
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
    let (kind, rest) = source.split_once(':').unwrap_or(("", &source));
    let function = match kind.to_ascii_lowercase().as_str() {
        "int" => Function::named(rest).ok_or_else(|| {
            Fault::new(format!("RewriteMap: internal map not found:{rest}")).at(1)
        })?,
        "txt" => file(call, &name, rest, false)?,
        "rnd" => file(call, &name, rest, true)?,
        "prg" | "dbd" | "fastdbd" => return Err(no_such_map(kind)),
        dbm if dbm.starts_with("dbm") => return Err(no_such_map(kind)),
        _ => file(call, &name, &source, false)?,
    };
    let maps = &mut draft(call).maps;
    maps.retain(|(known, _)| *known != name);
    maps.push((name, function));
    Ok(())
}

fn no_such_map(kind: &str) -> Fault {
    super::not_yet(&format!("RewriteMap {kind}:")).at(1).help(
        "sluice has the internal functions (int:) and text files (txt:, rnd:): programs and databases would hold up requests",
    )
}

/// A map that is a file.
fn file(call: &mut Call<'_, '_>, name: &str, path: &str, random: bool) -> Result<Function, Fault> {
    let path = call.draft.server_root.join(path);
    let shown = path.display();
    let bytes = call.draft.source.read(&path, LONGEST_MAP).map_err(|error| {
        let message = match error.kind() {
            io::ErrorKind::NotFound => {
                format!("RewriteMap: file for map {name} not found:{shown}")
            }
            io::ErrorKind::FileTooLarge => {
                format!("RewriteMap: file for map {name} is longer than {LONGEST_MAP} bytes: {shown}")
            }
            _ => format!("RewriteMap: cannot read {shown}: {error}"),
        };
        Fault::new(message).at(1)
    })?;
    let text = String::from_utf8(bytes).map_err(|_| {
        Fault::new(format!(
            "RewriteMap: file for map {name} is not UTF-8 text: {shown}"
        ))
        .at(1)
    })?;
    let files = &mut call.draft.spec.rewrite_maps;
    files.push(MapFile::read(&text, random));
    Ok(Function::File(files.len() - 1))
}
