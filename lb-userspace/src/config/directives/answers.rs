//! Redirect and its kin, ErrorDocument, ProxyErrorOverride: what sluice answers itself.

use super::{Arity, Call, Contexts, Directive, Effect, Fault, row};
use crate::{
    config::{
        spec::policy::{ErrorDocument, ErrorOverride, From, Redirect},
        value,
    },
    pattern::Pattern,
};

pub(super) const TABLE: &[Directive] = &[
    row("Redirect", Contexts::ALL, Arity::OneToThree, "[permanent|temp|seeother|gone|STATUS] [PATH] URL",
        "sends clients that ask for PATH, or below it, to URL with what follows PATH; in a section PATH may be left out. A status other than 3xx takes no URL. ProxyPass outside of sections comes first",
        Effect::Apply(redirect)).or("temp"),
    row("RedirectTemp", Contexts::ALL, Arity::Two, "PATH URL", "as Redirect temp (302)", Effect::Apply(redirect_temp)),
    row("RedirectPermanent", Contexts::ALL, Arity::Two, "PATH URL", "as Redirect permanent (301)", Effect::Apply(redirect_permanent)),
    row("RedirectMatch", Contexts::ALL, Arity::OneToThree, "[permanent|temp|seeother|gone|STATUS] REGEX URL",
        "sends clients whose path matches to URL, in which $1 is what the first group matched", Effect::Apply(redirect_match)).or("temp"),
    row("ErrorDocument", Contexts::ALL, Arity::Two, "STATUS \"TEXT\"|PATH|URL|default",
        "what a failed request is answered with in place of sluice's page: a text, what PATH of this server gives, or a redirect to URL. For pages of members see ProxyErrorOverride",
        Effect::Apply(error_document)).or("default"),
    row("ProxyErrorOverride", Contexts::ALL, Arity::Some, "Off|On [STATUS ...]",
        "whether responses of members with these statuses (without any: 400 and above) are replaced as errors of sluice's own are",
        Effect::Apply(error_override)).or("Off"),
];

/// Statuses by the words of `Redirect`.
fn status(word: &str) -> Option<u16> {
    match word.to_ascii_lowercase().as_str() {
        "permanent" => Some(301),
        "temp" => Some(302),
        "seeother" => Some(303),
        "gone" => Some(410),
        digits if digits.starts_with(|c: char| c.is_ascii_digit()) => {
            u16::try_from(value::atoi(digits)).ok()
        }
        _ => None,
    }
}

fn redirect(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    with_status(call, false)
}

fn redirect_match(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    with_status(call, true)
}

fn redirect_temp(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    add(call, 302, Some(0), Some(1), false)
}

fn redirect_permanent(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    add(call, 301, Some(0), Some(1), false)
}

fn with_status(call: &mut Call<'_, '_>, is_pattern: bool) -> Result<(), Fault> {
    let said = status(call.arg(0));
    let first = usize::from(said.is_some());
    let status = said.unwrap_or(302);
    if first == 0 && call.count() == 3 {
        let message = "Redirect: invalid first argument (of three)";
        return Err(Fault::new(message).at(0));
    }
    let rest = call.count() - first;
    let in_section = !call.is_for_server();
    match rest {
        // In a section the path is that of every request there is.
        1 if in_section && !is_pattern && (300..400).contains(&status) => {
            add(call, status, None, Some(first), is_pattern)
        }
        1 if !(300..400).contains(&status) => add(call, status, Some(first), None, is_pattern),
        0 if in_section && !is_pattern && !(300..400).contains(&status) => {
            add(call, status, None, None, is_pattern)
        }
        0 | 1 => Err(Fault::new(if is_pattern {
            "RedirectMatch requires a pattern and a URL"
        } else {
            "Redirect URL missing"
        })),
        _ => add(call, status, Some(first), Some(first + 1), is_pattern),
    }
}

fn add(
    call: &mut Call<'_, '_>,
    status: u16,
    from: Option<usize>,
    to: Option<usize>,
    is_pattern: bool,
) -> Result<(), Fault> {
    if (300..400).contains(&status) {
        if to.is_none() {
            return Err(Fault::new("URL to redirect to is missing"));
        }
    } else if let Some(index) = to {
        let message = "Redirect URL not valid for this status";
        return Err(Fault::new(message).at(index));
    }
    if http::StatusCode::from_u16(status).is_err() || status < 200 {
        return Err(Fault::new(format!("Redirect status {status} is none")).at(0));
    }
    let from = match from {
        None => From::Everything,
        Some(index) if is_pattern => From::Pattern(
            Pattern::new(call.arg(index), false)
                .map_err(|_| Fault::new("Regular expression could not be compiled.").at(index))?,
        ),
        Some(index) => {
            let path = call.arg(index);
            if !path.starts_with('/') {
                let message = "Redirect path must begin with a slash";
                call.warn(Fault::new(message).at(index).help("it matches no request"));
            }
            From::Prefix(call.arg(index).to_owned())
        }
    };
    let to = to.map_or_else(String::new, |index| call.arg(index).to_owned());
    if !is_pattern && !to.is_empty() && !to.contains("://") && !to.starts_with('/') {
        return Err(Fault::new("Redirect to non-URL").at(call.count() - 1));
    }
    call.policy().redirects.push(Redirect { status, from, to });
    Ok(())
}

fn error_document(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let number = value::atoi(call.arg(0));
    let Ok(status) = u16::try_from(number) else {
        return Err(unsupported(call));
    };
    if !(100..600).contains(&status) {
        return Err(unsupported(call));
    }
    let text = call.arg(1).to_owned();
    let document = if text.eq_ignore_ascii_case("default") {
        ErrorDocument::Default
    } else if text.starts_with('/') {
        ErrorDocument::Path(text)
    } else if text.contains("://") && !text.contains(char::is_whitespace) {
        if status == 401 {
            let message = "cannot use a full URL in a 401 ErrorDocument directive --- ignoring!";
            call.notice(Fault::new(message).at(1));
            return Ok(());
        }
        ErrorDocument::Url(text)
    } else {
        ErrorDocument::Text(text)
    };
    let documents = &mut call.policy().error_documents;
    documents.retain(|(known, _)| *known != status);
    documents.push((status, document));
    Ok(())
}

fn unsupported(call: &Call<'_, '_>) -> Fault {
    Fault::new(format!("Unsupported HTTP response code {}", call.arg(0)))
        .at(0)
        .help("expected 100 to 599")
}

fn error_override(call: &mut Call<'_, '_>) -> Result<(), Fault> {
    let Some(on) = value::flag(call.arg(0)) else {
        return Err(Fault::new("ProxyErrorOverride first parameter must be On or Off").at(0));
    };
    let mut codes = Vec::new();
    for index in 1..call.count() {
        let code = value::atoi(call.arg(index));
        match u16::try_from(code) {
            Ok(code) if (400..600).contains(&code) => codes.push(code),
            _ => {
                let message = "ProxyErrorOverride: status codes to intercept must be valid HTTP Status Codes >=400 && <600";
                return Err(Fault::new(message).at(index));
            }
        }
    }
    call.policy().error_override = Some(match (on, codes.is_empty()) {
        (false, _) => ErrorOverride::Off,
        (true, true) => ErrorOverride::On,
        (true, false) => ErrorOverride::Codes(codes),
    });
    Ok(())
}
