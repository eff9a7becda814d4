//! `ProxyPassReverse` and its kin for cookies: what a member says of places, made the client's
//! (apache.md 3.2, 3.3). Pure.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::path::match_prefix;
use crate::config::spec::{Balancer, Reverse, ReverseTarget};

/// One rule, ready to compare.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Only for requests of this path and below.
    location: Option<String>,
    /// What the prefix is replaced by.
    path: String,
    /// Prefixes, tried in order, with the number of their bytes whose case does not count: what
    /// follows a balancer's name is compared exactly.
    targets: Vec<(String, usize)>,
    /// `path` is `/` and the rule names a balancer: no slash is doubled.
    joins: bool,
    /// It may be filled in.
    interpolate: bool,
}

/// Field names whose value is a place.
pub(super) static PLACES: [HeaderName; 4] = [
    header::LOCATION,
    header::CONTENT_LOCATION,
    HeaderName::from_static("uri"),
    HeaderName::from_static("destination"),
];

impl Rule {
    /// Makes the rules of a host ready.
    pub fn all(reverses: &[Reverse], balancers: &[Balancer]) -> Vec<Self> {
        reverses
            .iter()
            .map(|reverse| match &reverse.target {
                ReverseTarget::Url(url) => Self {
                    location: reverse.location.clone(),
                    path: reverse.path.clone(),
                    targets: vec![(url.clone(), url.len())],
                    joins: false,
                    interpolate: reverse.interpolate,
                },
                ReverseTarget::Balancer { balancer, path } => Self {
                    location: reverse.location.clone(),
                    path: reverse.path.clone(),
                    // What follows the name is put behind each member's URL; the name's own slash
                    // is no part of it.
                    targets: balancers[*balancer]
                        .members
                        .iter()
                        .map(|member| {
                            let sub = if path == "/" { "" } else { path.as_str() };
                            // A socket is no part of what a member says of itself.
                            let url = match (&member.socket, member.url.split_once('|')) {
                                (Some(_), Some((_, url))) => url,
                                _ => &member.url,
                            };
                            let url = match sub {
                                "" => url,
                                _ => url.strip_suffix('/').unwrap_or(url),
                            };
                            (format!("{url}{sub}"), url.len())
                        })
                        .collect(),
                    joins: reverse.path == "/",
                    interpolate: reverse.interpolate,
                },
            })
            .collect()
    }

    /// The rule with its texts as `fill` makes them, where they may be.
    pub(super) fn filled(&self, fill: impl Fn(&str) -> String) -> Self {
        if !self.interpolate {
            return self.clone();
        }
        Self {
            path: fill(&self.path),
            targets: self
                .targets
                .iter()
                .map(|(target, folded)| {
                    let (folded, exact) = target.split_at(*folded);
                    let folded = fill(folded);
                    (format!("{folded}{}", fill(exact)), folded.len())
                })
                .collect(),
            ..self.clone()
        }
    }

    /// Whether the rule is for requests of this decoded path.
    fn is_for(&self, asked: &[u8]) -> bool {
        self.location
            .as_ref()
            .is_none_or(|location| match_prefix(asked, location.as_bytes()).is_some())
    }

    /// What follows the prefix in `value`, if this rule is for it.
    fn tail<'a>(&self, value: &'a str) -> Option<&'a str> {
        self.targets.iter().find_map(|(target, folded)| {
            let value = if target.starts_with('/') {
                path_of(value)
            } else {
                value
            };
            let (prefix, tail) = value.split_at_checked(target.len())?;
            let (folded, exact) = target.split_at(*folded);
            let (start, end) = prefix.split_at_checked(folded.len())?;
            (start.eq_ignore_ascii_case(folded) && end == exact).then_some(tail)
        })
    }

    fn apply(&self, tail: &str) -> String {
        let tail = match tail.strip_prefix('/') {
            Some(stripped) if self.joins => stripped,
            _ => tail,
        };
        format!("{}{tail}", self.path)
    }
}

/// Path, query and fragment of a URL; all of what has no host or no path.
fn path_of(value: &str) -> &str {
    let path = |(_, rest): (_, &'_ str)| rest.find('/').map(|at| value.len() - rest.len() + at);
    let at = value.split_once("://").and_then(path);
    &value[at.unwrap_or(0)..]
}

/// The value that takes `value`'s place: `None` when no rule is for it. `asked` is the request's
/// decoded path, `origin` the client's `scheme://host[:port]`.
pub fn rewrite(rules: &[Rule], asked: &[u8], value: &str, origin: &str) -> Option<String> {
    rules
        .iter()
        .filter(|rule| rule.is_for(asked))
        .find_map(|rule| {
            let path = rule.apply(rule.tail(value)?);
            if path.starts_with('/') {
                Some(format!("{origin}{path}"))
            } else {
                Some(path)
            }
        })
}

/// Rewrites the places in a response's fields. `asked` is the request's decoded path, `origin` the
/// client's `scheme://host[:port]`.
pub fn rewrite_fields(rules: &[Rule], asked: &[u8], fields: &mut HeaderMap, origin: &str) {
    if rules.is_empty() {
        return;
    }
    for name in &PLACES {
        // A second field of the name is the member's mistake and stays as it is.
        let Some(value) = fields.get_mut(name) else {
            continue;
        };
        let Ok(text) = value.to_str() else { continue };
        if let Some(new) = rewrite(rules, asked, text, origin)
            && let Ok(new) = HeaderValue::try_from(new)
        {
            *value = new;
        }
    }
}

/// A Set-Cookie field's value with its `Path` and `Domain` made the client's: the first pair whose
/// first text the attribute's value begins with replaces all of the value by its second.
pub fn rewrite_cookie(
    cookie: &str,
    paths: &[(String, String)],
    domains: &[(String, String)],
) -> String {
    let mut parts = cookie.split(';');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push(';');
        let attribute = part.trim_start();
        let blank = &part[..part.len() - attribute.len()];
        let Some((name, value)) = attribute.split_once('=') else {
            out.push_str(part);
            continue;
        };
        let replaced = match name.trim_end().to_ascii_lowercase().as_str() {
            "path" => paths
                .iter()
                .find(|(internal, _)| value.starts_with(internal.as_str())),
            "domain" => domains.iter().find(|(internal, _)| {
                value
                    .get(..internal.len())
                    .is_some_and(|start| start.eq_ignore_ascii_case(internal))
            }),
            _ => None,
        };
        match replaced {
            Some((_, public)) => {
                out.push_str(blank);
                out.push_str(name);
                out.push('=');
                out.push_str(public);
            }
            None => out.push_str(part),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(path: &str, url: &str) -> Rule {
        Rule {
            location: None,
            path: path.to_owned(),
            targets: vec![(url.to_owned(), url.len())],
            joins: false,
            interpolate: false,
        }
    }

    fn balancer(path: &str, members: &[&str]) -> Rule {
        Rule {
            location: None,
            path: path.to_owned(),
            targets: members
                .iter()
                .map(|&member| (member.to_owned(), member.len()))
                .collect(),
            joins: path == "/",
            interpolate: false,
        }
    }

    #[test]
    fn places_are_rewritten_as_httpd_does() {
        let cases: &[(Rule, &str, Option<&str>)] = &[
            (
                url("/app/", "http://h:8080/"),
                "http://h:8080/x?y",
                Some("http://c:1/app/x?y"),
            ),
            (
                url("/app/", "http://h:8080/"),
                "HTTP://H:8080/x",
                Some("http://c:1/app/x"),
            ),
            (url("/app/", "http://h:8080/"), "http://h:8080", None),
            (url("/app/", "http://h:8080/"), "http://other/x", None),
            (url("/app/", "http://h:8080/"), "/x", None),
            (
                url("/l/", "/inner/"),
                "http://else.where/inner/z",
                Some("http://c:1/l/z"),
            ),
            (url("/l/", "/inner/"), "/INNER/z", Some("http://c:1/l/z")),
            (url("/l/", "/inner/"), "inner/z", None),
            (
                balancer("/", &["http://a", "http://b"]),
                "http://b/x",
                Some("http://c:1/x"),
            ),
            (
                balancer("/app/", &["http://a", "http://b"]),
                "http://b/x",
                Some("http://c:1/app//x"),
            ),
            (balancer("/", &["http://a"]), "balancer://x/y", None),
        ];
        for (rule, value, expected) in cases {
            let got = rewrite(std::slice::from_ref(rule), b"/", value, "http://c:1");
            assert_eq!(got.as_deref(), *expected, "{value}");
        }
    }

    #[test]
    fn first_rule_wins() {
        let rules = [url("/one/", "http://h/"), url("/two/", "http://h/a/")];
        assert_eq!(
            rewrite(&rules, b"/", "http://h/a/b", "http://c").as_deref(),
            Some("http://c/one/a/b")
        );
    }

    #[test]
    fn rule_of_a_location_is_for_its_paths_alone() {
        let rules = [Rule {
            location: Some("/app".to_owned()),
            ..url("/app/", "http://h/")
        }];
        let rewritten = |asked: &[u8]| rewrite(&rules, asked, "http://h/x", "http://c");
        for asked in ["/app", "/app/y"] {
            assert_eq!(
                rewritten(asked.as_bytes()).as_deref(),
                Some("http://c/app/x")
            );
        }
        assert_eq!(rewritten(b"/apple"), None);
    }

    #[test]
    fn every_place_field_is_rewritten_and_no_other() {
        let mut fields = HeaderMap::new();
        for name in ["location", "content-location", "uri", "destination", "link"] {
            fields.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static("http://h/x"),
            );
        }
        rewrite_fields(&[url("/", "http://h/")], b"/", &mut fields, "http://c");
        for name in ["location", "content-location", "uri", "destination"] {
            assert_eq!(fields[name], "http://c/x");
        }
        assert_eq!(fields["link"], "http://h/x");
    }
}
