//! Every row of the table written wrongly: with too few and too many arguments, in a wrong place,
//! with a letter missing. Each must give one error, on its line.

use super::*;
use crate::config::{Environment, Options, load_with, source::Memory};

/// The contexts with what opens and closes each.
const PLACES: [(Contexts, &str, &str); 5] = [
    (Contexts::MAIN, "", ""),
    (Contexts::HOST, "<VirtualHost *:80>", "</VirtualHost>"),
    (Contexts::LOCATION, "<Location /a>", "</Location>"),
    (Contexts::PROXY, "<Proxy balancer://b>", "</Proxy>"),
    (Contexts::IF, "<If true>", "</If>"),
];

/// The line of what is looked at.
const LINE: u32 = 3;

/// Errors (line, message, help) of a directive, a section's name with `<`, in a place.
fn errors(name: &str, args: &str, (_, open, close): (Contexts, &str, &str)) -> Vec<String> {
    let written = match name.strip_prefix('<') {
        Some(section) if args.is_empty() => format!("<{section}>\n</{section}>"),
        Some(section) => format!("<{section} {args}>\n</{section}>"),
        None => format!("{name} {args}"),
    };
    let source = Memory::new("/c", format!("Listen 80\n{open}\n{written}\n{close}\n"));
    let options = Options::default();
    let loaded = load_with(&source, "/c".as_ref(), &options, Environment::default());
    let errors = loaded.reports.iter();
    errors
        .filter(|report| report.severity == Severity::Error)
        .map(|report| format!("{}: {} ({})", report.line, report.message, report.help))
        .collect()
}

/// The first place where a row may stand.
fn place_of(row: &Directive) -> (Contexts, &'static str, &'static str) {
    let mut places = PLACES.into_iter();
    let place = places.find(|(context, ..)| row.contexts.has(*context));
    place.expect("every row may stand somewhere")
}

/// What is wrong, if it is not exactly one error on the line that says all of `words`.
fn amiss(what: &str, errors: &[String], words: &[&str]) -> Option<String> {
    let at = format!("{LINE}: ");
    let is_it = |error: &String| error.starts_with(&at) && words.iter().all(|w| error.contains(w));
    let right = errors.len() == 1 && errors.iter().all(is_it);
    (!right).then(|| format!("{what}: {errors:#?}, expected one with {words:?}"))
}

fn all_right(failures: impl Iterator<Item = String>) {
    let failures: Vec<String> = failures.collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn wrong_number_of_arguments_is_one_error_with_the_usage() {
    let checked = rows().flat_map(|row| {
        let (fewest, most) = match row.arity {
            Arity::Flag | Arity::One => (1, Some(1)),
            Arity::Two => (2, Some(2)),
            Arity::OneOrTwo => (1, Some(2)),
            Arity::TwoOrThree => (2, Some(3)),
            Arity::OneToThree => (1, Some(3)),
            Arity::Some => (1, None),
            // Looked at below.
            Arity::Any => return Vec::new(),
        };
        let wrong = [Some(fewest - 1), most.map(|most| most + 1)];
        let of = |count: usize| {
            let args = vec!["On"; count].join(" ");
            let words = [row.name, &format!("usage: {} {}", row.name, row.syntax)];
            let what = format!("{} with {count} arguments", row.name);
            amiss(&what, &errors(row.name, &args, place_of(row)), &words)
        };
        wrong.into_iter().flatten().filter_map(of).collect()
    });
    all_right(checked);
}

/// Rows that say nothing about their number of arguments check it themselves.
#[test]
fn nothing_behind_a_name_is_one_error() {
    // Containers, and what httpd takes so too; what does nothing takes any number.
    const BARE: [&str; 9] = [
        "<Else",
        "<RequireAll",
        "<RequireAny",
        "<RequireNone",
        "<Proxy",
        "<ProxyMatch",
        "SSLProtocol",
        "SSLProxyProtocol",
        "SSLRequireSSL",
    ];
    let may_be_bare = |row: &Directive| {
        BARE.contains(&row.name) || matches!(row.effect, Effect::Notice(_) | Effect::Warning(_))
    };
    let bare = rows().filter(|row| row.arity == Arity::Any && !may_be_bare(row));
    let checked = bare.filter_map(|row| {
        let what = format!("{} with nothing", row.name);
        let said = errors(row.name, "", place_of(row));
        // httpd's words for these two have no name in them.
        let name = match row.name {
            "Header" | "RequestHeader" => "first argument must be",
            name => name.trim_start_matches('<'),
        };
        amiss(&what, &said, &[name])
    });
    all_right(checked);
}

#[test]
fn wrong_place_is_one_error_that_names_the_right_ones() {
    let checked = rows().flat_map(|row| {
        let wrong = PLACES
            .into_iter()
            .filter(|(context, ..)| !row.contexts.has(*context));
        wrong.filter_map(|place| {
            let (_, open, _) = place;
            let said = errors(row.name, "", place);
            let right = row.contexts.names();
            amiss(
                &format!("{} in {open}", row.name),
                &said,
                &[row.name, &right],
            )
        })
    });
    all_right(checked);
}

#[test]
fn misspelt_name_is_one_error_that_suggests_the_right_one() {
    let names = rows().map(|row| row.name).chain(foreign::names());
    let checked = names.filter_map(|name| {
        // One letter in the middle is missing; which is no other directive.
        let middle = name.len() / 2;
        let typo = format!("{}{}", &name[..middle], &name[middle + 1..]);
        if knows(&typo) {
            return Some(format!("{typo} is a directive: drop another letter"));
        }
        let place = PLACES[0];
        let help = format!("did you mean {name}");
        amiss(name, &errors(&typo, "On", place), &[&typo, &help])
    });
    all_right(checked);
}
