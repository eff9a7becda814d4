//! What policies do to the fields of a response: cookies rewritten, `Header` in its two tables.

use std::borrow::Cow;

use http::{HeaderMap, HeaderName, StatusCode, header};

use super::{Ruling, asker::Asker, cookies, kept};
use crate::{
    policy::fields,
    proxy::{exchange::Exchange, reverse::Rule},
};

/// Rewrites cookies and edits the fields of a member's response. Whether fields may have changed
/// that [`crate::proxy::fields::strip`] looks at.
pub(crate) fn edit_response(
    exchange: &Exchange,
    status: StatusCode,
    fields: &mut HeaderMap,
) -> bool {
    let Some(ruling) = &exchange.ruling else {
        return false;
    };
    let spec = &exchange.current.plan.spec;
    cookies::rewrite(ruling.policies(spec), |text| ruling.filled(text), fields);
    let rules = exchange.host().rules.as_ref();
    let changes_framing = rules.is_none_or(|rules| rules.changes_framing);
    let framing = changes_framing.then(|| {
        [header::CONTENT_LENGTH, header::TRANSFER_ENCODING]
            .map(|name| (fields.get(&name).cloned(), name))
    });
    let mut always = cookies_of_rules(ruling);
    edit(exchange, ruling, status, &mut always, true);
    edit(exchange, ruling, status, fields, false);
    for (value, name) in framing.into_iter().flatten() {
        // What the body's end is told by is nobody's to edit.
        match value {
            Some(value) => drop(fields.insert(name.clone(), value)),
            None => drop(fields.remove(&name)),
        }
        always.remove(&name);
    }
    prepend(fields, always);
    changes_framing
}

/// `ProxyPassReverse` as it is for a request.
pub(crate) fn reverses<'r>(exchange: &Exchange, rules: &'r [Rule]) -> Cow<'r, [Rule]> {
    match &exchange.ruling {
        Some(ruling) if ruling.interpolated.is_some() => {
            let filled = rules
                .iter()
                .map(|rule| rule.filled(|text| ruling.filled(text)));
            filled.collect()
        }
        _ => Cow::Borrowed(rules),
    }
}

/// Edits the fields of an answer of our own: `Header always` alone.
pub(crate) fn edit_own(exchange: &Exchange, status: StatusCode, fields: &mut HeaderMap) {
    let Some(ruling) = &exchange.ruling else {
        return;
    };
    let mut always = cookies_of_rules(ruling);
    edit(exchange, ruling, status, &mut always, true);
    for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        always.remove(name);
    }
    prepend(fields, always);
}

/// Puts the fields of the other table before those of this one, as httpd sends them.
fn prepend(fields: &mut HeaderMap, always: HeaderMap) {
    if always.is_empty() {
        return;
    }
    let behind = std::mem::replace(fields, always);
    let mut name: Option<HeaderName> = None;
    for (next, value) in behind {
        name = next.or(name);
        if let Some(name) = &name {
            fields.append(name.clone(), value);
        }
    }
}

fn edit(
    exchange: &Exchange,
    ruling: &Ruling,
    status: StatusCode,
    fields: &mut HeaderMap,
    always: bool,
) {
    for policy in ruling.policies(&exchange.current.plan.spec) {
        let edits = if always {
            &policy.always_fields
        } else {
            &policy.response_fields
        };
        for edit in edits {
            let before = kept(edit, fields);
            let asker = Asker {
                scene: exchange,
                ruling,
                fields: &ruling.fields,
                response: Some((status, &before)),
            };
            let notes = fields::apply(
                [edit],
                fields,
                &ruling.fields,
                &asker,
                &|| ruling.times(),
                false,
            );
            for (name, value) in notes {
                ruling.notes.borrow_mut().set(&name, value);
            }
        }
    }
}

/// What is in the other table before anything is edited.
fn cookies_of_rules(ruling: &Ruling) -> HeaderMap {
    let mut always = HeaderMap::new();
    for cookie in &ruling.cookies {
        always.append(header::SET_COOKIE, cookie.clone());
    }
    always
}
