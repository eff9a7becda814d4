//! Header and RequestHeader (apache.md 3.18).

use http::HeaderName;

use super::{Arity, Call, Contexts, Directive, Effect, Fault, row};
use crate::{
    expr::{Dialect, Expr},
    pattern::Pattern,
    policy::fields::{Action, Condition, FieldEdit, FieldName, Value},
};

pub(super) const TABLE: &[Directive] = &[
    row(
        "Header",
        Contexts::ALL,
        Arity::Any,
        "[onsuccess|always] set|setifempty|add|append|merge|unset|echo|edit|edit*|note NAME [VALUE [REPLACEMENT]] [early|env=[!]NAME|expr=EXPRESSION]",
        "edits fields of responses, or with note keeps what one says under VALUE, for %{VALUE}n in LogFormat and note() in expressions: onsuccess those of members, always a table of its own that answers of sluice itself have too. In VALUE: %{NAME}e a variable, %{NAME}s one of TLS, %t and %D times, or expr=",
        Effect::Apply(header),
    ),
    row(
        "RequestHeader",
        Contexts::ALL,
        Arity::Any,
        "set|setifempty|add|append|merge|unset|edit|edit* NAME [VALUE [REPLACEMENT]] [early|env=[!]NAME|expr=EXPRESSION]",
        "edits fields of requests before members get them",
        Effect::Apply(request_header),
    ),
];

fn header(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let table = call.arg(0).to_ascii_lowercase();
    let first = usize::from(matches!(table.as_str(), "always" | "onsuccess"));
    let edit = edit(call, first, true)?;
    if table == "always" {
        call.policy().always_fields.push(edit);
    } else {
        call.policy().response_fields.push(edit);
    }
    Ok(())
}

fn request_header(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let edit = edit(call, 0, false)?;
    call.policy().request_fields.push(edit);
    Ok(())
}

/// The edit that the words from `first` on describe.
fn edit(call: &mut Call<'_, '_>, first: usize, response: bool) -> Result<FieldEdit, Fault> {
    let name = call.row.name;
    let given = call.count().saturating_sub(first);
    if given > 5 {
        return Err(Fault::new(format!("{name} has too many arguments")).at(first + 5));
    }
    let word = |index: usize| (index < given).then(|| (first + index, call.arg(first + index)));
    let action = call.arg(first).to_ascii_lowercase();
    let (field_at, field) = word(1).unwrap_or((first, ""));
    let value = word(2);
    let (value, substitute, condition) = match action.as_str() {
        "edit" | "edit*" => {
            let (Some(value), Some(substitute)) = (value, word(3)) else {
                let message = format!("{name} edit requires a match and a substitution");
                return Err(Fault::new(message));
            };
            (Some(value), Some(substitute), word(4))
        }
        "unset" | "echo" => {
            if word(3).is_some() {
                let message = format!("{name} {action} takes two arguments");
                return Err(Fault::new(message).at(first + 3));
            }
            (None, None, value)
        }
        "set" | "setifempty" | "add" | "append" | "merge" | "note"
            if response || action != "note" =>
        {
            if word(4).is_some() {
                let message = format!("Too many arguments to directive {name}");
                return Err(Fault::new(message).at(first + 4));
            }
            if value.is_none() {
                return Err(Fault::new(format!("{name} requires three arguments")));
            }
            (value, None, word(3))
        }
        _ => {
            let message = "first argument must be 'add', 'set', 'setifempty', 'append', 'merge', 'unset', 'echo', 'note', 'edit', or 'edit*'.";
            return Err(Fault::new(message).at(first));
        }
    };
    let format = |part: Option<(usize, &str)>| {
        let (index, text) = part.unwrap_or_default();
        self::value(text).map_err(|why| Fault::new(why).at(index))
    };
    let action = match action.as_str() {
        "set" => Action::Set(format(value)?),
        "setifempty" => Action::SetIfEmpty(format(value)?),
        "add" => Action::Add(format(value)?),
        "append" => Action::Append(format(value)?),
        "merge" => Action::Merge(format(value)?),
        "note" => Action::Note(format(value)?),
        "unset" => Action::Unset,
        "echo" => {
            if !response {
                let message = "Header echo only valid on Header directives";
                return Err(Fault::new(message).at(first));
            }
            let pattern = Pattern::new(field, true)
                .map_err(|_| Fault::new("Header echo regex could not be compiled").at(field_at))?;
            Action::Echo(pattern)
        }
        every => {
            let (index, text) = value.unwrap_or_default();
            let pattern = Pattern::new(text, false)
                .map_err(|_| Fault::new("Header edit regex could not be compiled").at(index))?;
            Action::Edit(pattern, format(substitute)?, every == "edit*")
        }
    };
    let condition = match condition {
        Some((index, text)) => self::condition(text).map_err(|why| Fault::new(why).at(index))?,
        None => Condition::Always,
    };
    let field = field.strip_suffix(':').unwrap_or(field);
    let named = match action {
        // What it is for is in the pattern.
        Action::Echo(_) => Ok(HeaderName::from_static("echo")),
        _ => HeaderName::from_bytes(field.as_bytes()),
    };
    let Ok(named) = named else {
        let message = format!("'{field}' is not the name of a header field");
        return Err(Fault::new(message).at(field_at));
    };
    let edit = FieldEdit {
        action,
        name: FieldName(named),
        condition,
    };
    if edit.condition == Condition::Early && !call.is_for_server() {
        let message = "early acts before sections are looked at: in a section it does nothing";
        call.warn(Fault::new(message));
    }
    Ok(edit)
}

fn value(text: &str) -> Result<Value, String> {
    match text.strip_prefix("expr=") {
        Some(text) => Expr::text(text, Dialect::Request)
            .map(Value::Expr)
            .map_err(|error| format!("Can't parse value expression : {error}")),
        None => Value::format(text).map_err(|error| error.to_string()),
    }
}

/// What stands at the end of a line.
fn condition(text: &str) -> Result<Condition, String> {
    let after = |start: &str| {
        text.get(..start.len())
            .filter(|found| found.eq_ignore_ascii_case(start))
            .map(|_| &text[start.len()..])
    };
    if text.eq_ignore_ascii_case("early") {
        return Ok(Condition::Early);
    }
    if let Some(text) = after("expr=") {
        return Expr::condition(text, Dialect::Request)
            .map(Condition::Expr)
            .map_err(|error| format!("Can't parse condition expression: {error}"));
    }
    let Some(name) = after("env=") else {
        return Err("error: envclause should be in the form env=envar".to_owned());
    };
    let (name, wanted) = match name.strip_prefix('!') {
        Some(name) => (name, false),
        None => (name, true),
    };
    if name.is_empty() {
        let message =
            "error: missing environment variable name. envclause should be in the form env=envar ";
        return Err(message.to_owned());
    }
    Ok(Condition::Environment(name.to_owned(), wanted))
}
