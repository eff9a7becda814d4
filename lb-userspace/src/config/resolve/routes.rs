//! Warnings about `ProxyPass` lines that no request can reach.

use crate::config::{
    draft::{Draft, RouteDraft},
    report::Severity,
};

/// Warns of each line that an earlier one of the same host, or of the main server, hides.
pub(super) fn warn_unreachable(draft: &mut Draft<'_>) {
    let mut found = Vec::new();
    for (index, host) in draft.hosts.iter().enumerate() {
        let inherited: &[RouteDraft] = if index == 0 {
            &[]
        } else {
            &draft.hosts[0].routes
        };
        // What was seen, by path, so that a long list is not compared with itself in full.
        let mut seen: std::collections::HashMap<&str, &RouteDraft> =
            std::collections::HashMap::new();
        for route in inherited {
            seen.entry(&route.path).or_insert(route);
        }
        for route in &host.routes {
            if let Some(first) = covers(&seen, &route.path) {
                let place = first.mark.place();
                let message = format!(
                    "ProxyPass {} is never reached: ProxyPass {} in line {} of {} comes first",
                    route.path,
                    first.path,
                    place.line,
                    place.file.display()
                );
                found.push((route.mark.clone(), message));
            }
            seen.entry(&route.path).or_insert(route);
        }
    }
    for (mark, message) in found {
        let help = "the first line that matches counts, not the longest: put the longer path first";
        draft
            .reports
            .push(Severity::Warning, mark.at(), message, help);
    }
}

/// The line among `seen` that takes every request which `path` would match: one with the same path,
/// or with a whole-segment prefix of it.
fn covers<'a>(
    seen: &std::collections::HashMap<&str, &'a RouteDraft>,
    path: &str,
) -> Option<&'a RouteDraft> {
    if let Some(same) = seen.get(path) {
        return Some(same);
    }
    path.match_indices('/').find_map(|(at, _)| {
        // `/a` covers `/a/b`; `/a/` covers `/a/b`; neither covers `/ab`.
        let without = seen.get(&path[..at]).filter(|_| at > 0);
        without.or_else(|| seen.get(&path[..=at])).copied()
    })
}
