//! Require and its containers, Order, Allow and Deny, SetHandler (apache.md 3.23).

use super::{Arity, Call, Contexts, Directive, Effect, Fault, Scope, Section, row};
use crate::{
    config::{
        prefix,
        report::Severity,
        spec::policy::{AuthMerging, Handler, LegacyAccess, Order},
        syntax::{lexer, tree::Node},
    },
    expr::{Dialect, Expr},
    policy::access::{Combination, Methods, Pointless, Rule},
};

const REQUIRE: &str = "[not] all granted|denied; ip NETWORK ...; local; host NAME|.DOMAIN ...; forward-dns NAME ...; env NAME ...; method METHOD ...; expr EXPRESSION; ssl; ssl-verify-client";

pub(super) const TABLE: &[Directive] = &[
    row("Require", Contexts::SECTIONS, Arity::Any, REQUIRE,
        "who may make requests; several in one section: one must grant. A later section's take the place of an earlier one's. Denied requests are answered with 403. host asks for the name of the client's address and for the addresses of that name, forward-dns for those of NAME: docs/http.md says what it costs",
        Effect::Apply(require)).or("all granted"),
    row("<RequireAll", Contexts::SECTIONS, Arity::Any, "",
        "Require lines and containers that must all grant", Effect::Section(container)),
    row("<RequireAny", Contexts::SECTIONS, Arity::Any, "",
        "Require lines and containers of which one must grant", Effect::Section(container)),
    row("<RequireNone", Contexts::SECTIONS, Arity::Any, "",
        "Require lines and containers of which none may grant", Effect::Section(container)),
    row("AuthMerging", Contexts::SECTIONS, Arity::One, "Off|And|Or",
        "what Require of this section does to that of the sections before it: takes its place, must grant too, may grant instead",
        Effect::Apply(auth_merging)).or("Off"),
    row("Order", Contexts::SECTIONS, Arity::One, "deny,allow|allow,deny|mutual-failure",
        "order of Allow and Deny (httpd 2.2): what comes last decides, and is what happens to others", Effect::Apply(order)).or("deny,allow"),
    row("Allow", Contexts::SECTIONS, Arity::Some, "from all|NETWORK|NAME|env=[!]NAME ...",
        "who may make requests (httpd 2.2)", Effect::Apply(allow)),
    row("Deny", Contexts::SECTIONS, Arity::Some, "from all|NETWORK|NAME|env=[!]NAME ...",
        "who may not make requests (httpd 2.2)", Effect::Apply(deny)),
    row("Satisfy", Contexts::SECTIONS, Arity::One, "All|Any",
        "whether Allow and Deny as well as Require must allow a request, or one of the two (httpd 2.2). A section that says Any without Order allows everybody", Effect::Apply(satisfy)).or("All"),
    row("<Limit", Contexts::ALL, Arity::Any, "METHOD ...",
        "Require, Order, Allow and Deny for requests by these methods; GET is HEAD too. As in httpd a section with nothing else grants every other method", Effect::Section(limit)),
    row("<LimitExcept", Contexts::ALL, Arity::Any, "METHOD ...",
        "the same for requests by all other methods", Effect::Section(limit_except)),
    row("SetHandler", Contexts::ALL, Arity::One, "balancer-manager|server-status|server-info|none",
        "a page that the server makes itself, in place of what ProxyPass says: docs/manager.md; of the others this version has none and answers 404, with a warning",
        Effect::Apply(set_handler)).or("none"),
];

fn require(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let rule = rule(call.node)?;
    add(call, rule)
}

/// Adds a rule to those of the section, of which one must grant.
fn add(call: &mut Call<'_, '_>, rule: Rule) -> Result<(), Fault> {
    pointless(Combination::Any, std::slice::from_ref(&rule))?;
    let rule = match &call.scope.limit {
        Some(methods) => Rule::Limited(methods.clone(), Box::new(rule)),
        None => rule,
    };
    let access = &mut call.policy().access;
    match access {
        Some(Rule::Group(_, rules)) => rules.push(rule),
        _ => *access = Some(Rule::Group(Combination::Any, vec![rule])),
    }
    Ok(())
}

fn pointless(combination: Combination, rules: &[Rule]) -> Result<(), Fault> {
    combination
        .check(rules, combination.name())
        .map_err(|why: Pointless| Fault::new(why.to_string()))
}

fn container(call: &mut Call<'_, '_>) -> Result<Scope, Fault> {
    if let Some(rule) = group(call, call.node)? {
        add(call, rule)?;
    }
    // Its contents were read here.
    Ok(Scope {
        host: call.scope.host,
        section: Section::Skip,
        policy: call.scope.policy,
        limit: None,
    })
}

/// Whether a directive may stand in `<Limit>`.
pub(super) fn is_about_access(name: &str) -> bool {
    ["Require", "Order", "Allow", "Deny", "Satisfy"].contains(&name) || name.starts_with("<Require")
}

fn limit(call: &mut Call<'_, '_>) -> Result<Scope, Fault> {
    limited(call, false)
}

fn limit_except(call: &mut Call<'_, '_>) -> Result<Scope, Fault> {
    limited(call, true)
}

fn limited(call: &mut Call<'_, '_>, except: bool) -> Result<Scope, Fault> {
    let name = call.row.name;
    if call.count() == 0 {
        let message = format!("{name}> directive requires additional arguments");
        return Err(Fault::new(message));
    }
    for index in 0..call.count() {
        let word = call.arg(index);
        if word == "TRACE" {
            let message = format!("TRACE cannot be controlled by {name}>, see TraceEnable");
            return Err(Fault::new(message).at(index));
        }
        // As in httpd: any other word becomes a method.
    }
    let named = (0..call.count()).map(|index| call.arg(index));
    let named = named.map(|word| if word == "HEAD" { "GET" } else { word });
    Ok(Scope {
        limit: Some(Methods {
            named: named.map(str::to_owned).collect(),
            except,
        }),
        ..call.scope.clone()
    })
}

fn satisfy(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let any = match call.arg(0).to_ascii_lowercase().as_str() {
        "all" => false,
        "any" => true,
        _ => return Err(Fault::new("Satisfy either 'any' or 'all'.").at(0)),
    };
    let limit = call.scope.limit.clone();
    let legacy = legacy(call);
    if let Some(methods) = limit {
        legacy.satisfy_limited.push((methods, any));
    } else {
        // As in httpd, for every method: those that a <Limit> above spoke of as well.
        legacy.satisfy_limited.clear();
        legacy.satisfy_any = any;
    }
    Ok(())
}

/// The rule of a container; `None`: it is empty.
fn group(call: &mut Call<'_, '_>, node: &Node) -> Result<Option<Rule>, Fault> {
    let name = format!("<{}>", node.name.text);
    let all = [Combination::All, Combination::Any, Combination::None];
    let combination = all
        .into_iter()
        .find(|combination| combination.name().eq_ignore_ascii_case(&name))
        .unwrap_or(Combination::Any);
    if !node.args.is_empty() {
        let message = format!("{} directive doesn't take arguments", combination.name());
        return Err(Fault::new(message).at(0));
    }
    let mut rules = Vec::new();
    for child in node.children.iter().flatten() {
        let made = match (
            &child.children,
            child.name.text.to_ascii_lowercase().as_str(),
        ) {
            (None, "require") => rule(child).map(Some),
            (Some(_), "requireall" | "requireany" | "requirenone") => group(call, child),
            (children, _) => {
                let open = if children.is_some() { "<" } else { "" };
                Err(Fault::new(format!(
                    "{open}{} not allowed in {} context",
                    child.name.text,
                    combination.name()
                )))
            }
        };
        let made = made.and_then(|rule| match rule {
            Some(rule) if combination != Combination::All => {
                pointless(combination, std::slice::from_ref(&rule)).map(|()| Some(rule))
            }
            rule => Ok(rule),
        });
        match made {
            Ok(Some(rule)) => rules.push(rule),
            Ok(None) => {}
            Err(fault) => {
                let at = child.at(fault.word);
                let reports = &mut call.draft.reports;
                reports.push(Severity::Error, at, fault.message, fault.help);
            }
        }
    }
    if rules.is_empty() {
        if node
            .children
            .as_ref()
            .is_some_and(|children| !children.is_empty())
        {
            // What stands in it was refused.
            return Ok(None);
        }
        let message = format!(
            "{} directive contains no authorization directives",
            combination.name()
        );
        return Err(Fault::new(message));
    }
    pointless(combination, &rules)?;
    Ok(Some(Rule::Group(combination, rules)))
}

/// The rule of one `Require`.
fn rule(node: &Node) -> Result<Rule, Fault> {
    let words: Vec<&str> = node.args.iter().map(|word| word.text.as_str()).collect();
    let (negative, words) = match words.split_first() {
        Some((first, rest)) if first.eq_ignore_ascii_case("not") => (true, rest),
        _ => (false, &words[..]),
    };
    let first = usize::from(negative);
    let Some((kind, arguments)) = words.split_first() else {
        return Err(Fault::new("Require directive requires arguments")
            .help(format!("usage: Require {REQUIRE}")));
    };
    let names = || -> Vec<String> { arguments.iter().map(|&word| word.to_owned()).collect() };
    // As in httpd, in lower case only.
    let rule = match *kind {
        "all" => match arguments {
            [word] if word.eq_ignore_ascii_case("granted") => Rule::All(true),
            [word] if word.eq_ignore_ascii_case("denied") => Rule::All(false),
            _ => {
                let message = "Argument for 'Require all' must be 'granted' or 'denied'";
                return Err(Fault::new(message).at(first + 1));
            }
        },
        "ip" => {
            if arguments.is_empty() {
                let message = "'require ip' requires an address or network";
                return Err(Fault::new(message).at(first)
                    .help("expected addresses, networks with a length or netmask, or the first bytes of an IPv4 address"));
            }
            let networks = arguments.iter().enumerate().map(|(index, text)| {
                prefix::subnet(text).ok_or_else(|| {
                    Fault::new(format!("ip address '{text}' appears to be invalid"))
                        .at(first + 1 + index)
                })
            });
            Rule::Ip(networks.collect::<Result<_, _>>()?)
        }
        "local" => Rule::Local,
        "env" => Rule::Env(names()),
        "method" => {
            if let Some(index) = arguments.iter().position(|word| !is_method(word)) {
                let message = format!("Invalid Method '{}'", arguments[index]);
                return Err(Fault::new(message).at(first + 1 + index));
            }
            Rule::Method(names())
        }
        "expr" => Rule::Expr(expression(node, negative)?),
        "host" => Rule::Host(hosts(arguments, first)?),
        "forward-dns" => Rule::ForwardDns(hosts(arguments, first)?),
        "ssl" | "ssl-verify-client" => {
            if !arguments.is_empty() {
                let message = format!("'Require {kind}' does not take arguments");
                return Err(Fault::new(message).at(first + 1));
            }
            let condition = match *kind {
                "ssl" => "%{HTTPS} == 'on'",
                _ => "%{SSL_CLIENT_VERIFY} == 'SUCCESS'",
            };
            let parsed = Expr::condition(condition, Dialect::Request);
            Rule::Expr(parsed.map_err(|error| Fault::new(error.to_string()))?)
        }
        "valid-user" | "user" | "group" => {
            return Err(super::not_yet(&format!("Require {kind}"))
                .at(first)
                .help("sluice knows no users: let the members ask for them"));
        }
        _ => {
            return Err(Fault::new(format!("Unknown Authz provider: {kind}")).at(first));
        }
    };
    Ok(if negative {
        Rule::Not(Box::new(rule))
    } else {
        rule
    })
}

/// Names to compare with or to look up: what follows a `#` is none, as in httpd.
fn hosts(words: &[&str], first: usize) -> Result<Vec<String>, Fault> {
    let mut names = Vec::new();
    for (index, word) in words.iter().enumerate() {
        if word.contains("%{") {
            return Err(super::not_yet("a name that a request makes up")
                .at(first + 1 + index)
                .help("write the names, or Require expr"));
        }
        let (name, comment) = word
            .split_once('#')
            .map_or((*word, false), |(name, _)| (name, true));
        if !name.is_empty() {
            names.push(name.to_ascii_lowercase());
        }
        if comment {
            break;
        }
    }
    Ok(names)
}

/// What `Require method` takes: the methods that httpd knows.
fn is_method(word: &str) -> bool {
    const KNOWN: [&str; 27] = [
        "GET",
        "HEAD",
        "PUT",
        "POST",
        "DELETE",
        "CONNECT",
        "OPTIONS",
        "TRACE",
        "PATCH",
        "PROPFIND",
        "PROPPATCH",
        "MKCOL",
        "COPY",
        "MOVE",
        "LOCK",
        "UNLOCK",
        "VERSION-CONTROL",
        "CHECKOUT",
        "UNCHECKOUT",
        "CHECKIN",
        "UPDATE",
        "LABEL",
        "REPORT",
        "MKWORKSPACE",
        "MKACTIVITY",
        "BASELINE-CONTROL",
        "MERGE",
    ];
    KNOWN.contains(&word)
}

/// All that follows `expr` is the expression; quotes around it are none of it.
fn expression(node: &Node, negative: bool) -> Result<Expr, Fault> {
    let mut rest = node.raw.as_str();
    for _ in 0..=usize::from(negative) {
        rest = lexer::rest_after_word(rest);
    }
    let (word, after) = lexer::braced(rest);
    let text = if after.is_empty() { &word } else { rest };
    Expr::condition(text, Dialect::Request).map_err(|error| {
        let message = format!("Cannot parse expression in require line: {error}");
        Fault::new(message).at(1 + usize::from(negative))
    })
}

fn auth_merging(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    call.policy().auth_merging = match call.arg(0).to_ascii_lowercase().as_str() {
        "off" => AuthMerging::Off,
        "and" => AuthMerging::And,
        "or" => AuthMerging::Or,
        _ => {
            let message = "AuthMerging must be one of: Off | And | Or";
            return Err(Fault::new(message).at(0));
        }
    };
    Ok(())
}

fn legacy<'c>(call: &'c mut Call<'_, '_>) -> &'c mut LegacyAccess {
    call.policy().legacy.get_or_insert_default()
}

fn order(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let order = match call.arg(0).to_ascii_lowercase().as_str() {
        "deny,allow" => Order::DenyAllow,
        "allow,deny" | "mutual-failure" => Order::AllowDeny,
        _ => {
            return Err(Fault::new("unknown order")
                .at(0)
                .help("expected deny,allow or allow,deny"));
        }
    };
    let limit = call.scope.limit.clone();
    let legacy = legacy(call);
    if let Some(methods) = limit {
        legacy.limited.push((methods, order));
    } else {
        // As in httpd, for every method: those that a <Limit> above spoke of as well.
        legacy.limited.clear();
        legacy.order = order;
    }
    Ok(())
}

/// Rules that hold for the methods of the `<Limit>` around them alone.
fn within_limit(call: &Call<'_, '_>, rules: Vec<Rule>) -> Vec<Rule> {
    let Some(methods) = &call.scope.limit else {
        return rules;
    };
    let others = || {
        let methods = Methods {
            except: !methods.except,
            ..methods.clone()
        };
        // Denies the others, of which it would otherwise say nothing.
        Rule::Limited(methods, Box::new(Rule::All(false)))
    };
    let both = |rule| Rule::Group(Combination::All, vec![rule, others()]);
    rules.into_iter().map(both).collect()
}

fn allow(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let rules = sources(call)?;
    let rules = within_limit(call, rules);
    legacy(call).allow.extend(rules);
    Ok(())
}

fn deny(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let rules = sources(call)?;
    let rules = within_limit(call, rules);
    legacy(call).deny.extend(rules);
    Ok(())
}

/// What follows `from`.
fn sources(call: &Call<'_, '_>) -> Result<Vec<Rule>, Fault> {
    if !call.arg(0).eq_ignore_ascii_case("from") {
        let message = "allow and deny must be followed by 'from'";
        return Err(Fault::new(message).at(0));
    }
    if call.count() < 2 {
        let name = call.row.name.to_ascii_lowercase();
        let message = format!(
            "{name} requires at least two arguments, 'from' followed by hostnames or IP-address wildcards"
        );
        return Err(Fault::new(message));
    }
    (1..call.count())
        .map(|index| {
            let word = call.arg(index);
            let env = word
                .get(..4)
                .filter(|start| start.eq_ignore_ascii_case("env="));
            if env.is_some() {
                let name = &word[4..];
                return Ok(match name.strip_prefix('!') {
                    // Denied unless it is set: the rule grants where it is not.
                    Some(name) => Rule::Group(
                        Combination::All,
                        vec![
                            Rule::All(true),
                            Rule::Not(Box::new(Rule::Env(vec![name.to_owned()]))),
                        ],
                    ),
                    None => Rule::Env(vec![name.to_owned()]),
                });
            }
            if word.eq_ignore_ascii_case("all") {
                return Ok(Rule::All(true));
            }
            if let Some(network) = prefix::subnet(word) {
                return Ok(Rule::Ip(vec![network]));
            }
            if word.contains('/') {
                let message = format!("ip address '{word}' appears to be invalid");
                return Err(Fault::new(message).at(index));
            }
            Ok(Rule::Host(vec![word.to_ascii_lowercase()]))
        })
        .collect()
}

fn set_handler(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let name = call.arg(0).to_owned();
    let handler = match name.to_ascii_lowercase().as_str() {
        "none" => Handler::None,
        "balancer-manager" => Handler::BalancerManager,
        "server-status" | "server-info" => Handler::Absent,
        _ => return Err(super::not_yet(&format!("SetHandler {name}")).at(0)),
    };
    if handler == Handler::Absent {
        let message = format!(
            "this version of sluice has no {name} page: requests for it are answered with 404"
        );
        call.warn(
            Fault::new(message)
                .at(0)
                .help("`sluice status` shows the same"),
        );
    }
    call.policy().handler = Some(handler);
    Ok(())
}
