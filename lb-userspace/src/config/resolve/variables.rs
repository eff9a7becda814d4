//! Variables that the configuration asks for and that no request will have: warnings, once all lines
//! that may set one are known.

use std::collections::BTreeSet;

use crate::{
    config::{
        draft::{AskedFor, Draft},
        report::Severity,
        variables,
    },
    policy::environment::Change,
};

/// Warns of them.
pub(super) fn warn(draft: &mut Draft<'_>) {
    let asked = std::mem::take(&mut draft.asked);
    let Some(set) = names_set(draft).filter(|_| !asked.is_empty()) else {
        return;
    };
    for asked in asked {
        let name = asked.name.to_ascii_lowercase();
        // Those of a request that a rule gave another path, or whose error has a page of its own.
        let name = name.strip_prefix("redirect_").unwrap_or(&name);
        if variables::is_known(name) || set.contains(name) {
            continue;
        }
        let (message, help) = match asked.by {
            AskedFor::Value => (
                format!(
                    "this version of sluice has no variable {}: it is never set",
                    asked.name
                ),
                "those of TLS that it has are in docs/tls.md",
            ),
            AskedFor::Log { present: true } => (
                format!("no request ever has the variable {}", asked.name),
                "no line is ever written",
            ),
            AskedFor::Log { present: false } => (
                format!("no request ever has the variable {}", asked.name),
                "every line is written",
            ),
        };
        draft
            .reports
            .push(Severity::Warning, asked.mark.at(), message, help);
    }
}

/// Names that SetEnv, SetEnvIf and RewriteRule set anywhere, lower case. `None`: any may be, for a
/// name is made of the request.
fn names_set(draft: &Draft<'_>) -> Option<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for policy in &draft.spec.policies {
        let set = policy.set_env.iter().map(|(name, _)| name);
        names.extend(set.map(|name| name.to_ascii_lowercase()));
        for change in policy.set_env_if.iter().flat_map(|rule| &rule.changes) {
            if let Change::Set(name, _) = change {
                names.insert(name.to_ascii_lowercase());
            }
        }
        for template in policy
            .rewriting
            .rules
            .iter()
            .flat_map(|rule| &rule.environment)
        {
            let text = template.text();
            let name = text.split_once(':').map_or(text, |(name, _)| name);
            if name.contains(['%', '$']) {
                return None;
            }
            names.insert(name.to_ascii_lowercase());
        }
    }
    Some(names)
}
