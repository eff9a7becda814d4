//! Who may make a request: Require and the Order family, as sections combine them (apache.md 3.23).

use http::{HeaderMap, StatusCode};
use tracing::error;

use super::{LOG, Ruling, Scene, Stop, asker::Asker, names::Known};
use crate::{
    config::spec::{
        Spec,
        policy::{AuthMerging, LegacyAccess, Order},
    },
    policy::access::{Combination, Place, Rule, Verdict},
    proxy::reason::Reason,
};

impl Ruling {
    pub(super) fn check_access(
        &self,
        scene: &dyn Scene,
        spec: &Spec,
        fields: &HeaderMap,
    ) -> Result<(), Stop> {
        if !scene.is_tls() && self.policies(spec).any(|policy| policy.requires_tls) {
            error!(
                target: LOG,
                reason = Reason::AccessDenied.name(),
                "[client {}] AH02219: access to {} failed, reason: SSL connection required",
                scene.peer(),
                String::from_utf8_lossy(&self.path)
            );
            return Err(Stop::Fail(StatusCode::FORBIDDEN, Reason::AccessDenied));
        }
        let asker = self.asker(scene, fields);
        let client = scene.peer().ip().to_canonical();
        let names = Known {
            client,
            scene,
            open: &self.open,
        };
        let place = Place {
            here: scene.local().ip(),
            names: &names,
        };
        let refused = |id: &str| {
            let stop = Err(Stop::Fail(StatusCode::FORBIDDEN, Reason::AccessDenied));
            if !self.open.borrow().is_empty() {
                // Names are looked up first.
                return stop;
            }
            let uri = String::from_utf8_lossy(&self.path);
            error!(
                target: LOG,
                reason = Reason::AccessDenied.name(),
                "[client {}] {id}: client denied by server configuration: {uri}",
                scene.peer()
            );
            stop
        };
        if let Some(legacy) = self.last(spec, |policy| policy.legacy.as_ref()) {
            match (
                legacy_allows(legacy, &asker, place),
                satisfies_any(legacy, &asker),
            ) {
                // Require is not asked.
                (true, true) => return Ok(()),
                (false, false) => return refused("AH01797"),
                (true, false) | (false, true) => {}
            }
        }
        let mut verdict = Verdict::Granted;
        for policy in self.policies(spec) {
            let Some(rule) = &policy.access else { continue };
            let own = rule.section_verdict(&asker, place);
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

fn legacy_allows(legacy: &LegacyAccess, asker: &Asker<'_>, place: Place<'_>) -> bool {
    let any = |rules: &[Rule]| rules.iter().any(|rule| rule.allows(asker, place));
    let limited = legacy.limited.iter().rev();
    let order = limited
        .filter(|(methods, _)| methods.has(asker))
        .map(|(_, order)| *order)
        .next();
    match order.unwrap_or(legacy.order) {
        Order::DenyAllow => any(&legacy.allow) || !any(&legacy.deny),
        Order::AllowDeny => any(&legacy.allow) && !any(&legacy.deny),
    }
}

fn satisfies_any(legacy: &LegacyAccess, asker: &Asker<'_>) -> bool {
    let mut limited = legacy.satisfy_limited.iter().rev();
    let limited = limited.find(|(methods, _)| methods.has(asker));
    limited.map_or(legacy.satisfy_any, |(_, any)| *any)
}
