//! `ProxyRemote` and `ProxyBlock` that would be for a member: errors, for httpd would send its requests
//! another way, or refuse them.

use crate::config::{
    draft::{Applies, Draft},
    report::Severity,
    spec::{Balancer, Member},
};

/// Reports them.
pub(super) fn check(draft: &mut Draft<'_>, balancers: &[Balancer]) {
    for elsewhere in std::mem::take(&mut draft.elsewhere) {
        let members = balancers.iter().flat_map(|balancer| &balancer.members);
        let Some(member) = members
            .into_iter()
            .find(|member| elsewhere.applies.to(member))
        else {
            continue;
        };
        let message = format!(
            "{} is for {} too, which is not supported by this version of sluice",
            elsewhere.directive, member.url
        );
        let help = "sluice speaks to members itself, and to all of them: take the member out of it, or out of the file";
        let at = elsewhere.mark.at();
        draft.reports.push(Severity::Error, at, message, help);
    }
}

impl Applies {
    fn to(&self, member: &Member) -> bool {
        match self {
            Self::Everything => true,
            Self::Prefix(prefix) => member.url.to_ascii_lowercase().starts_with(prefix),
            Self::Pattern(pattern) => pattern.is_match(member.url.as_bytes()),
            Self::Host(part) => member.host.contains(part.as_str()),
        }
    }
}
