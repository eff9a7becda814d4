//! SetEnv, UnsetEnv, PassEnv; SetEnvIf, SetEnvIfNoCase, SetEnvIfExpr, BrowserMatch and
//! BrowserMatchNoCase: the environment of a request.

use super::{Arity, Call, Contexts, Directive, Effect, Fault, row};
use crate::{
    expr::{Dialect, Expr},
    pattern::Pattern,
    policy::environment::{Change, SetEnvIf, Subject, Test},
};

/// Variables that mean something to sluice.
const MEANINGS: &str = "no-proxy keeps a request from ProxyPass, nokeepalive closes the client's connection behind it, force-response-1.0 has no effect";

pub(super) const TABLE: &[Directive] = &[
    row(
        "SetEnv",
        Contexts::ALL,
        Arity::OneOrTwo,
        "NAME [VALUE]",
        "sets a variable after access was checked: for Header, RequestHeader and logs",
        Effect::Apply(set_env),
    ),
    row(
        "UnsetEnv",
        Contexts::ALL,
        Arity::Some,
        "NAME ...",
        "takes back what SetEnv and PassEnv set here and in sections before",
        Effect::Apply(unset_env),
    ),
    row(
        "PassEnv",
        Contexts::ALL,
        Arity::Some,
        "NAME ...",
        "sets variables to what they are in the environment of the process that reads the configuration",
        Effect::Apply(pass_env),
    ),
    row(
        "SetEnvIf",
        Contexts::ALL,
        Arity::Any,
        "FIELD|Remote_Addr|Server_Addr|Request_Method|Request_Protocol|Request_URI REGEX [!]NAME[=VALUE] ...",
        MEANINGS,
        Effect::Apply(set_env_if),
    ),
    row(
        "SetEnvIfNoCase",
        Contexts::ALL,
        Arity::Any,
        "FIELD REGEX [!]NAME[=VALUE] ...",
        "as SetEnvIf, letters match in either case",
        Effect::Apply(set_env_if_no_case),
    ),
    row(
        "SetEnvIfExpr",
        Contexts::ALL,
        Arity::Any,
        "EXPRESSION [!]NAME[=VALUE] ...",
        "sets variables where an expression holds",
        Effect::Apply(set_env_if_expr),
    ),
    row(
        "BrowserMatch",
        Contexts::ALL,
        Arity::Any,
        "REGEX [!]NAME[=VALUE] ...",
        "as SetEnvIf User-Agent",
        Effect::Apply(browser_match),
    ),
    row(
        "BrowserMatchNoCase",
        Contexts::ALL,
        Arity::Any,
        "REGEX [!]NAME[=VALUE] ...",
        "as SetEnvIfNoCase User-Agent",
        Effect::Apply(browser_match_no_case),
    ),
];

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn set_env(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let pair = (call.arg(0).to_owned(), call.arg(1).to_owned());
    call.policy().set_env.push(pair);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn unset_env(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let names = call.node.args.iter().map(|word| word.text.clone());
    let names: Vec<String> = names.collect();
    call.policy().unset_env.extend(names);
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "the table has one signature")]
fn pass_env(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    for index in 0..call.count() {
        let name = call.arg(index).to_owned();
        let value = call.draft.environment.value(&name).map(str::to_owned);
        if let Some(value) = value {
            call.policy().set_env.push((name, value));
        } else {
            let message = format!("PassEnv variable {name} was undefined");
            call.warn(Fault::new(message).at(index));
        }
    }
    Ok(())
}

fn set_env_if(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    matching(call, false)
}

fn set_env_if_no_case(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    matching(call, true)
}

fn matching(call: &mut Call<'_, '_>, ignores_case: bool) -> Result<(), Fault> {
    let name = call.row.name;
    if call.count() == 0 {
        return Err(Fault::new(format!("Missing attribute name for {name}")));
    }
    if call.count() == 1 {
        return Err(Fault::new(format!("Missing regular expression for {name}")));
    }
    // httpd's test compiles a name that is a pattern without regard to case.
    let subject = Subject::named(call.arg(0), true)
        .map_err(|_| Fault::new(format!("{name} regex could not be compiled.")).at(0))?;
    pattern(call, subject, 1, ignores_case)
}

fn pattern(
    call: &mut Call<'_, '_>,
    subject: Subject,
    index: usize,
    ignores_case: bool,
) -> Result<(), Fault> {
    let name = call.row.name;
    let pattern = Pattern::new(call.arg(index), ignores_case)
        .map_err(|_| Fault::new(format!("{name} regex could not be compiled.")).at(index))?;
    let changes = changes(call, index + 1)?;
    let test = Test::Matches(subject, pattern);
    call.policy().set_env_if.push(SetEnvIf { test, changes });
    Ok(())
}

fn changes(call: &Call<'_, '_>, first: usize) -> Result<Vec<Change>, Fault> {
    if call.count() <= first {
        let message = format!("Missing envariable expression for {}", call.row.name);
        return Err(Fault::new(message));
    }
    Ok((first..call.count())
        .map(|index| Change::parse(call.arg(index)))
        .collect())
}

fn set_env_if_expr(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    if call.count() == 0 {
        let message = format!("Missing expression for {}", call.row.name);
        return Err(Fault::new(message));
    }
    let expr = Expr::condition(call.arg(0), Dialect::Request).map_err(|error| {
        Fault::new(format!(
            "Could not parse expression \"{}\": {error}",
            call.arg(0)
        ))
        .at(0)
    })?;
    let changes = changes(call, 1)?;
    let test = Test::Holds(expr);
    call.policy().set_env_if.push(SetEnvIf { test, changes });
    Ok(())
}

fn browser_match(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    browser(call, false)
}

fn browser_match_no_case(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    browser(call, true)
}

fn browser(call: &mut Call<'_, '_>, ignores_case: bool) -> Result<(), Fault> {
    if call.count() == 0 {
        let message = format!("Missing regular expression for {}", call.row.name);
        return Err(Fault::new(message));
    }
    let subject = Subject::Named("User-Agent".to_owned());
    pattern(call, subject, 0, ignores_case)
}
