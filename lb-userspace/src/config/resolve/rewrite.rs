//! RewriteRule lines to the rules of each place: which worker a `[P]` rule leads to, and what a
//! virtual host inherits.

use super::Names;
use crate::{
    config::{
        directives::{covering, direct_member},
        draft::{Draft, RewriteDraft, TargetDraft, WorkerDraft},
        report::Severity,
        url::WorkerUrl,
    },
    rewrite::{Action, Rule},
};

/// Makes the workers of `[P]` rules whose URL no ProxyPass covers, and names those that do. To be
/// done before workers are collected.
pub(super) fn make_workers(draft: &mut Draft<'_>) {
    let mut rewrites = std::mem::take(&mut draft.rewrites);
    for rewrite in rewrites.values_mut() {
        for rule in &mut rewrite.rules {
            let Some(TargetDraft::Worker { url, .. }) = &mut rule.target else {
                continue;
            };
            let Ok(parsed) = WorkerUrl::parse(url) else {
                continue;
            };
            // The main server's workers are every host's.
            let known = [rewrite.host, 0].into_iter().find_map(|host| {
                let workers = &draft.hosts[host].workers;
                let found = covering(workers, url, &parsed)?;
                Some((host, workers[found].member.url.clone()))
            });
            let worker = if let Some((host, name)) = known {
                let mut workers = draft.hosts[host].workers.iter();
                let worker = workers.find(|worker| worker.member.url == name);
                *url = name;
                worker.filter(|_| host != rewrite.host).cloned()
            } else {
                let base = WorkerUrl {
                    path: String::new(),
                    ..parsed
                };
                *url = base.authority();
                Some(WorkerDraft {
                    member: direct_member(&base, rule.mark.place()),
                    mark: rule.mark.clone(),
                })
            };
            draft.hosts[rewrite.host].workers.extend(worker);
        }
    }
    draft.rewrites = rewrites;
}

/// Gives each policy its rules.
pub(super) fn resolve(draft: &mut Draft<'_>, names: &Names) {
    let rewrites = std::mem::take(&mut draft.rewrites);
    let main = rewrites.get(&draft.hosts[0].policy);
    for (policy, rewrite) in &rewrites {
        warn(draft, *policy, rewrite);
        let own = rules(rewrite, rewrite.host, names);
        let is_server = draft.hosts[rewrite.host].policy == *policy;
        let base = main.filter(|_| is_server && rewrite.host > 0);
        let theirs = base.map(|base| rules(base, rewrite.host, names));
        let down = base.and_then(|base| base.options).unwrap_or_default();
        // Those of sections are combined for each request.
        let options = rewrite.options.filter(|_| is_server).unwrap_or(down);
        let inherited = theirs.unwrap_or_default();
        let rewriting = &mut draft.spec.policies[*policy].rewriting;
        rewriting.rules = options.combine(down, &own, &inherited).into_owned();
        rewriting.options = rewrite.options;
    }
}

/// A place's rules with their balancers, as a host sees them.
fn rules(rewrite: &RewriteDraft, host: usize, names: &Names) -> Vec<Rule> {
    let rules = rewrite.rules.iter().filter_map(|draft| {
        let mut rule = draft.rule.clone();
        let index = match &draft.target {
            None => return Some(rule),
            Some(TargetDraft::Balancer { name, .. }) => names
                .balancer(host, name)
                .or_else(|| names.balancer(rewrite.host, name))?,
            Some(TargetDraft::Worker { url, .. }) => names.worker(rewrite.host, url)?,
            Some(TargetDraft::Local) => return None,
        };
        if let Action::Proxy { balancer, .. } = &mut rule.action {
            *balancer = index;
        }
        Some(rule)
    });
    rules.collect()
}

fn warn(draft: &mut Draft<'_>, policy: usize, rewrite: &RewriteDraft) {
    if let Some((_, mark)) = rewrite.conditions.first() {
        let message = "RewriteCond does nothing: no RewriteRule follows it";
        draft
            .reports
            .push(Severity::Warning, mark.at(), message, "");
    }
    let said = |policy: usize| draft.spec.policies[policy].rewriting.engine;
    let in_section = draft
        .spec
        .policies
        .iter()
        .any(|policy| policy.rewriting.engine == Some(true));
    let is_on = said(policy)
        .or(said(draft.hosts[rewrite.host].policy))
        .or(said(draft.hosts[0].policy))
        .unwrap_or(false);
    if let Some(rule) = rewrite.rules.first()
        && !is_on
        && !in_section
    {
        let message = "RewriteRule does nothing: RewriteEngine is off";
        let help = "write RewriteEngine On before it";
        draft
            .reports
            .push(Severity::Warning, rule.mark.at(), message, help);
    }
}
