//! What the manager changed, kept beside the configuration: set again after a reload of a file that
//! says of the balancer what it said before, and with `BalancerPersist On` after a restart too.

use std::{collections::BTreeMap, mem::discriminant};

use lb_common::member::MemberState;
use serde::{Deserialize, Serialize};

use super::edit::{self, Live, Setting};
use crate::config::spec::{Balancer, Place, Spec};

/// Changes by the balancer's name.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kept {
    balancers: BTreeMap<String, Changes>,
}

/// Changes of one balancer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Changes {
    /// What the file said when they were made. Not written: a file that is read again at a start
    /// counts for nothing against `BalancerPersist`.
    #[serde(skip)]
    file: Option<Balancer>,
    /// Settings of the balancer and, by URL, of its members; in the order in which they were made.
    settings: Vec<(Option<String>, Setting)>,
    /// What was changed in members' slots, by URL: kept with `BalancerPersist` alone, for the table
    /// outlives a reload.
    slots: BTreeMap<String, Slot>,
}

/// What an operator can change in a member's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Slot {
    status: u64,
    lbfactor: u32,
    lbset: u8,
}

/// All of it, for the program that this one becomes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Handed {
    kept: Kept,
    /// [`Changes::file`] of each balancer that has one.
    files: BTreeMap<String, Balancer>,
}

impl From<Kept> for Handed {
    fn from(mut kept: Kept) -> Self {
        let balancers = kept.balancers.iter_mut();
        let files =
            balancers.filter_map(|(name, changes)| Some((name.clone(), changes.file.take()?)));
        Self {
            files: files.collect(),
            kept,
        }
    }
}

impl From<Handed> for Kept {
    fn from(handed: Handed) -> Self {
        let mut kept = handed.kept;
        for (name, file) in handed.files {
            if let Some(changes) = kept.balancers.get_mut(&name) {
                changes.file = Some(file);
            }
        }
        kept
    }
}

impl Kept {
    /// Reads what [`Kept::text`] wrote.
    pub fn parse(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }

    /// What is to outlive the process: balancers with `BalancerPersist`.
    pub fn text(&self, spec: &Spec) -> Result<Vec<u8>, serde_json::Error> {
        let persists = |name: &String| {
            let found = spec.balancers.iter().find(|b| b.name == *name);
            found.is_some_and(|b| b.manage.persist)
        };
        let kept = self.balancers.iter().filter(|(name, _)| persists(name));
        serde_json::to_vec_pretty(&Self {
            balancers: kept.map(|(k, v)| (k.clone(), v.clone())).collect(),
        })
    }

    /// Remembers a balancer's file before its first change. `balancer`: as it is on.
    pub fn before(&mut self, balancer: &Balancer) {
        let changes = self.balancers.entry(balancer.name.clone()).or_default();
        if changes.file.is_none() && changes.settings.is_empty() {
            changes.file = Some(bare(balancer));
        }
    }

    /// Remembers settings that were made.
    pub fn set(&mut self, balancer: &str, member: Option<&str>, settings: &[Setting]) {
        let changes = self.balancers.entry(balancer.to_owned()).or_default();
        for setting in settings {
            if matches!(setting, Setting::Slot(_) | Setting::Status(..)) {
                continue;
            }
            if !matches!(setting, Setting::Add(_)) {
                let kind = discriminant(setting);
                changes
                    .settings
                    .retain(|(of, old)| of.as_deref() != member || discriminant(old) != kind);
            }
            changes
                .settings
                .push((member.map(str::to_owned), setting.clone()));
        }
    }

    /// Remembers what a member's slot holds after a change.
    pub fn slot(&mut self, balancer: &str, member: &str, live: Live) {
        let changes = self.balancers.entry(balancer.to_owned()).or_default();
        let slot = Slot {
            status: live.state.0 & MemberState::OPERATOR,
            lbfactor: live.lbfactor,
            lbset: live.lbset,
        };
        changes.slots.insert(member.to_owned(), slot);
    }

    /// Puts what is kept over a configuration that was just read. Changes of balancers that are no
    /// longer there, or that the file now wants otherwise, are dropped; what is to be said of it.
    pub fn put_over(&mut self, spec: &mut Spec) -> Vec<String> {
        let mut notices = Vec::new();
        self.balancers.retain(|name, changes| {
            let Some(balancer) = spec.balancers.iter_mut().find(|b| b.name == *name) else {
                return false;
            };
            let file = bare(balancer);
            let persist = balancer.manage.persist;
            if !persist && changes.file.as_ref().is_some_and(|known| *known != file) {
                notices.push(format!(
                    "the file has changed balancer://{name}: what was changed in the balancer-manager is gone"
                ));
                return false;
            }
            changes.file = Some(file);
            changes.settings.retain(|(member, setting)| {
                let at = member
                    .as_ref()
                    .and_then(|url| balancer.members.iter().position(|m| m.url == *url));
                if member.is_some() && at.is_none() || !setting.is_valid() {
                    return false;
                }
                // A member that was added and is now in the file is the file's.
                edit::apply(balancer, at, setting).is_ok()
            });
            if persist {
                for member in &mut balancer.members {
                    if let Some(slot) = changes.slots.get(&member.url) {
                        let others = member.status & !MemberState::OPERATOR;
                        member.status = others | (slot.status & MemberState::OPERATOR);
                        member.lbfactor = slot.lbfactor.clamp(100, 10_000);
                        member.lbset = slot.lbset.min(99);
                    }
                }
            }
            true
        });
        notices
    }
}

/// What a file says of a balancer, wherever it says it.
fn bare(balancer: &Balancer) -> Balancer {
    let mut bare = balancer.clone();
    bare.at = Place::default();
    for member in &mut bare.members {
        member.at = Place::default();
    }
    bare
}
