//! `sluice route`: where a request would go, and why; asked of the daemon, or of a file alone.

use std::{fmt::Write as _, path::PathBuf};

use super::{
    FAILED, Failure, Outcome,
    args::{Global, RouteArgs},
    client::{self, NoAnswer},
    output,
    table::{
        Align::{Left, Right},
        Cell, Table, Tone,
    },
};
use crate::{
    admin::protocol::{CandidateView, Request, Response, RouteQuestion, RouteView},
    config::{self, Severity},
    proxy::explain,
};

pub(crate) fn route(global: &Global, args: &RouteArgs) -> Outcome {
    let question = RouteQuestion {
        method: args.method.clone(),
        url: args.url.clone(),
        fields: args
            .fields
            .iter()
            .map(|field| split(field))
            .collect::<Result<_, _>>()?,
        client: args.client,
        local: args.local,
    };
    let view = match &args.file {
        Some(file) => of_file(file, &args.defines, &question)?,
        None => of_daemon(global, question)?,
    };
    if args.json {
        return output::json(&view);
    }
    output::text(&text(&view, output::is_coloured()))
}

fn split(field: &str) -> Result<(String, String), Failure> {
    let (name, value) = field.split_once(':').ok_or_else(|| {
        Failure::text(
            super::USAGE,
            format_args!("-H takes NAME: VALUE, not {field:?}"),
        )
    })?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

fn of_daemon(global: &Global, question: RouteQuestion) -> Result<RouteView, Failure> {
    match client::ask(global, &Request::Route { question }) {
        Ok(Response::Route(view)) => Ok(*view),
        Ok(Response::Refused { message }) => Err(Failure::text(FAILED, message)),
        Ok(_) => Err(Failure::text(FAILED, "the daemon answered strangely")),
        Err(NoAnswer::Failed(failure)) => Err(failure),
        Err(NoAnswer::Ended) => Err(client::ended()),
        Err(NoAnswer::Dead) => Err(Failure::text(
            super::UNREACHABLE,
            "no daemon answers; -f FILE asks a configuration file instead",
        )),
    }
}

fn of_file(
    file: &std::path::Path,
    defines: &[String],
    question: &RouteQuestion,
) -> Result<RouteView, Failure> {
    let options = config::Options {
        defines: defines.to_vec(),
        ..config::Options::default()
    };
    let loaded = config::load(&PathBuf::from(file), &options);
    let Some(spec) = loaded.spec else {
        let errors: Vec<String> = (loaded.reports.iter())
            .filter(|report| report.severity >= Severity::Error)
            .map(config::Report::render)
            .collect();
        return Err(Failure::text(FAILED, errors.join("\n")));
    };
    let machine = rustix::system::uname();
    let machine = machine.nodename().to_string_lossy();
    explain::explain(&spec, &|_, _| None, &machine, question)
        .map_err(|error| Failure::text(FAILED, error))
}

fn text(view: &RouteView, colour: bool) -> String {
    let mut out = String::new();
    let mut line = |text: std::fmt::Arguments<'_>| {
        let _never_fails_on_a_string = writeln!(out, "{text}");
    };
    let width = view.steps.iter().map(|step| step.what.len()).max();
    for step in &view.steps {
        let at = step.at.as_ref().map(|at| format!("  ({at})"));
        let what = Cell::from(format!("{:1$}", step.what, width.unwrap_or(0)));
        let said = Cell::from(format!("{}{}", step.text, at.unwrap_or_default()));
        line(format_args!(
            "{}  {}",
            what.render(colour),
            said.render(colour)
        ));
    }
    line(format_args!(""));
    let verdict = match view.verdict.as_str() {
        "member" => {
            let target = view.target.as_deref();
            let target = target.unwrap_or("one of those that may be drawn");
            Cell::toned(&format!("goes to {target}"), Tone::Good)
        }
        "redirect" => {
            let place = view.location.as_deref().unwrap_or_default();
            Cell::toned(&format!("is sent to {place}"), Tone::Warn)
        }
        "unheard" => Cell::toned("meets nobody", Tone::Bad),
        "error" => {
            let (status, reason) = (view.status.unwrap_or(0), view.reason.as_deref());
            let reason = reason.unwrap_or("other");
            Cell::toned(&format!("is answered with {status} ({reason})"), Tone::Bad)
        }
        other => Cell::toned(&format!("is answered by sluice: {other}"), Tone::Good),
    };
    line(format_args!("the request {}", verdict.render(colour)));
    if !view.candidates.is_empty() {
        let states = if view.live {
            "members as they are now"
        } else {
            "members as the file begins with them"
        };
        line(format_args!("\n{states}"));
        out.push_str(&candidates(&view.candidates).render(2, colour));
    }
    out
}

fn candidates(candidates: &[CandidateView]) -> Table {
    let mut table = Table::new(&[
        ("", Left),
        ("MEMBER", Left),
        ("ROUTE", Left),
        ("STATE", Left),
        ("SET", Right),
        ("FACTOR", Right),
        ("LBSTATUS", Right),
        ("BUSY", Right),
        ("WHY", Left),
    ]);
    for view in candidates {
        let state: String = view.state.iter().collect();
        let tone = if view.elected {
            Tone::Good
        } else {
            Tone::Plain
        };
        table.row(vec![
            Cell::from(if view.elected { ">" } else { "" }),
            Cell::toned(&view.url, tone),
            Cell::from(&view.route),
            Cell::from(if state.is_empty() { "OK" } else { &state }),
            view.lbset.into(),
            view.lbfactor.into(),
            view.lbstatus.into(),
            view.busy.into(),
            Cell::from(&view.why),
        ]);
    }
    table
}
