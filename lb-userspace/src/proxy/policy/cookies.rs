//! `ProxyPassReverseCookiePath` and `-Domain` (apache.md 3.3). Pure.

use http::{HeaderMap, HeaderValue, header};

use crate::{
    config::spec::policy::{CookieRule, Policy},
    proxy::reverse::rewrite_cookie,
};

/// Rewrites the attributes of every Set-Cookie. The first rule whose text the attribute's value
/// begins with replaces all of the value. `fill` makes the texts of those that may be filled in.
pub(super) fn rewrite<'p>(
    policies: impl Iterator<Item = &'p Policy>,
    fill: impl Fn(&str) -> String,
    fields: &mut HeaderMap,
) {
    let text = |rule: &CookieRule| {
        if rule.interpolate {
            (fill(&rule.internal), fill(&rule.public))
        } else {
            (rule.internal.clone(), rule.public.clone())
        }
    };
    let (mut paths, mut domains) = (Vec::new(), Vec::new());
    for policy in policies {
        paths.extend(policy.cookie_paths.iter().map(text));
        domains.extend(policy.cookie_domains.iter().map(text));
    }
    if paths.is_empty() && domains.is_empty() {
        return;
    }
    let cookies: Vec<HeaderValue> = fields.get_all(header::SET_COOKIE).iter().cloned().collect();
    fields.remove(header::SET_COOKIE);
    for cookie in cookies {
        let new = cookie
            .to_str()
            .ok()
            .map(|text| rewrite_cookie(text, &paths, &domains))
            .and_then(|text| HeaderValue::try_from(text).ok());
        fields.append(header::SET_COOKIE, new.unwrap_or(cookie));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_value_of_a_matching_attribute_is_replaced() {
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        let (path, domain) = (pair("/i/", "/l/"), pair("back.test", "front.test"));
        for (cookie, expected) in [
            (
                "S=1; Path=/i/sub; Domain=back.test",
                "S=1; Path=/l/; Domain=front.test",
            ),
            ("S=/i/;path=/i/;HttpOnly", "S=/i/;path=/l/;HttpOnly"),
            (
                "S=1; Path=/other; Domain=.back.test",
                "S=1; Path=/other; Domain=.back.test",
            ),
            ("S=1; DOMAIN=Back.Test", "S=1; DOMAIN=front.test"),
            ("S=1", "S=1"),
        ] {
            assert_eq!(
                rewrite_cookie(
                    cookie,
                    std::slice::from_ref(&path),
                    std::slice::from_ref(&domain)
                ),
                expected
            );
        }
    }
}
