//! Who may make a request: Require and the Order family, as sections combine them (apache.md 3.23).

use http::{HeaderMap, StatusCode};
use tracing::error;

use super::{LOG, Ruling, Scene, Stop, asker::Asker};
use crate::{
    config::spec::{
        Spec,
        policy::{AuthMerging, LegacyAccess, Order},
    },
    policy::access::{Combination, Rule, Verdict},
    proxy::reason::Reason,
};

impl Ruling {
    pub(super) fn check_access(
        &self,
        scene: &dyn Scene,
        spec: &Spec,
        fields: &HeaderMap,
    ) -> Result<(), Stop> {
        let asker = self.asker(scene, fields);
        let here = scene.local().ip();
        let uri = String::from_utf8_lossy(&self.path);
        let refused = |id: &str| {
            error!(
                target: LOG,
                reason = Reason::AccessDenied.name(),
                "[client {}] {id}: client denied by server configuration: {uri}",
                scene.peer()
            );
            Err(Stop::Fail(StatusCode::FORBIDDEN, Reason::AccessDenied))
        };
        if let Some(legacy) = self.last(spec, |policy| policy.legacy.as_ref())
            && !legacy_allows(legacy, &asker, here)
        {
            return refused("AH01797");
        }
        let mut verdict = Verdict::Granted;
        for policy in self.policies(spec) {
            let Some(rule) = &policy.access else { continue };
            let own = rule.verdict(&asker, here);
            verdict = match policy.auth_merging {
                AuthMerging::Off => own,
                AuthMerging::And => Combination::All.of(verdict, own),
                AuthMerging::Or => Combination::Any.of(verdict, own),
            };
        }
        match verdict {
            Verdict::Granted => Ok(()),
            Verdict::Denied | Verdict::Neutral => refused("AH01630"),
        }
    }
}

fn legacy_allows(legacy: &LegacyAccess, asker: &Asker<'_>, here: std::net::IpAddr) -> bool {
    let any = |rules: &[Rule]| rules.iter().any(|rule| rule.allows(asker, here));
    match legacy.order {
        Order::DenyAllow => any(&legacy.allow) || !any(&legacy.deny),
        Order::AllowDeny => any(&legacy.allow) && !any(&legacy.deny),
    }
}
