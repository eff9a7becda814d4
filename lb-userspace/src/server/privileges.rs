//! Who the proxy process is: looking up `User` and `Group`, and becoming them for good.

use std::{fmt::Write as _, io, path::Path, process::Command};

use caps::CapSet;
use rustix::{process::Resource, thread as this_thread};
use serde::{Deserialize, Serialize};

/// A user that the proxy process becomes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Name, for messages.
    pub(crate) name: String,
    /// User id, never 0.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Supplementary groups, as initgroups(3) would give.
    pub(crate) groups: Vec<u32>,
}

/// Why there is no such identity.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum IdentityError {
    /// As httpd's AH00543.
    #[error("bad user name {0}: there is no such user on this host")]
    NoUser(String),
    /// As httpd's AH00544.
    #[error("bad group name {0}: there is no such group on this host")]
    NoGroup(String),
    /// httpd refuses that too.
    #[error("User {0} is root: the proxy must run as an ordinary user")]
    Root(String),
    /// Neither of [`DEFAULT_USERS`].
    #[error("no User is configured and this host has neither a user sluice nor nobody")]
    NoDefault,
}

/// Users tried where the configuration names none; a package creates the first.
const DEFAULT_USERS: [&str; 2] = ["sluice", "nobody"];

/// The two text databases, as files or as getent(1) prints them.
pub(crate) struct Accounts {
    passwd: String,
    group: String,
}

impl Accounts {
    /// Reads this host's, asking getent(1) for `names` that the files do not have (LDAP and the like).
    pub(crate) fn of_host(user: Option<&str>, group: Option<&str>) -> Self {
        let read = |path| std::fs::read_to_string(Path::new(path)).unwrap_or_default();
        let mut accounts = Self {
            passwd: read("/etc/passwd"),
            group: read("/etc/group"),
        };
        if let Some(user) = user.filter(|user| accounts.user(user).is_none()) {
            accounts.passwd.push_str(&getent("passwd", user));
        }
        if let Some(group) = group.filter(|group| accounts.group(group).is_none()) {
            accounts.group.push_str(&getent("group", group));
        }
        accounts
    }

    /// The identity that `User` and `Group` name.
    pub(crate) fn identity(
        &self,
        user: Option<&str>,
        group: Option<&str>,
    ) -> Result<Identity, IdentityError> {
        let (name, uid, primary) = match user {
            Some(user) => self
                .user(user)
                .ok_or_else(|| IdentityError::NoUser(user.to_owned()))?,
            None => DEFAULT_USERS
                .iter()
                .find_map(|user| self.user(user))
                .ok_or(IdentityError::NoDefault)?,
        };
        if uid == 0 {
            return Err(IdentityError::Root(name));
        }
        let gid = match group {
            Some(group) => self
                .group(group)
                .ok_or_else(|| IdentityError::NoGroup(group.to_owned()))?,
            None => primary,
        };
        let mut groups = vec![gid];
        for line in self.group.lines() {
            let fields: Vec<&str> = line.split(':').collect();
            if let [_, _, id, members] = fields[..]
                && members.split(',').any(|member| member == name)
                && let Ok(id) = id.parse()
                && !groups.contains(&id)
            {
                groups.push(id);
            }
        }
        Ok(Identity {
            name,
            uid,
            gid,
            groups,
        })
    }

    /// Name, user id and primary group of a name or `#number`.
    fn user(&self, wanted: &str) -> Option<(String, u32, u32)> {
        let number = wanted.strip_prefix('#');
        self.passwd
            .lines()
            .find_map(|line| {
                let fields: Vec<&str> = line.split(':').collect();
                let (name, uid, gid) = (fields.first()?, fields.get(2)?, fields.get(3)?);
                (*name == wanted || number == Some(uid)).then_some(())?;
                Some(((*name).to_owned(), uid.parse().ok()?, gid.parse().ok()?))
            })
            .or_else(|| {
                let id = number?.parse().ok()?;
                Some((wanted.to_owned(), id, id))
            })
    }

    /// Group id of a name or `#number`.
    pub(crate) fn group(&self, wanted: &str) -> Option<u32> {
        if let Some(number) = wanted.strip_prefix('#') {
            return number.parse().ok();
        }
        self.group.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            (*fields.first()? == wanted).then(|| fields.get(2)?.parse().ok())?
        })
    }
}

fn getent(database: &str, name: &str) -> String {
    let answer = Command::new("getent")
        .args(["--", database, name])
        .output()
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    format!("\n{answer}")
}

/// Becomes `identity` (when given) and gives up every capability and every way to gain one. For
/// the only thread of a process: the kernel keeps these per thread, and later threads inherit.
pub(crate) fn give_up(identity: Option<&Identity>) -> io::Result<()> {
    this_thread::set_no_new_privs(true)?;
    if caps::has_cap(None, CapSet::Effective, caps::Capability::CAP_SETPCAP).unwrap_or(false) {
        caps::clear(None, CapSet::Bounding).map_err(io::Error::other)?;
    }
    if let Some(identity) = identity {
        let raw = |id| {
            if id == u32::MAX {
                Err(io::Error::from(io::ErrorKind::InvalidInput))
            } else {
                Ok(id)
            }
        };
        let groups = identity
            .groups
            .iter()
            .map(|id| raw(*id).map(rustix::process::Gid::from_raw))
            .collect::<io::Result<Vec<_>>>()?;
        let gid = rustix::process::Gid::from_raw(raw(identity.gid)?);
        let uid = rustix::process::Uid::from_raw(raw(identity.uid)?);
        this_thread::set_thread_groups(&groups)?;
        this_thread::set_thread_res_gid(gid, gid, gid)?;
        this_thread::set_thread_res_uid(uid, uid, uid)?;
    }
    for set in [
        CapSet::Ambient,
        CapSet::Effective,
        CapSet::Permitted,
        CapSet::Inheritable,
    ] {
        caps::clear(None, set).map_err(io::Error::other)?;
    }
    let mut left = String::new();
    for set in [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable] {
        for cap in caps::read(None, set).map_err(io::Error::other)? {
            let _never_fails_on_a_string = write!(left, " {cap}");
        }
    }
    if !left.is_empty() {
        return Err(io::Error::other(format!(
            "capabilities that did not go:{left}"
        )));
    }
    if identity.is_some() && rustix::process::geteuid().is_root() {
        return Err(io::Error::other("still root after changing the user"));
    }
    Ok(())
}

/// Raises the soft limit on open files to the hard one: every connection is one.
pub(crate) fn raise_file_limit() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        tracing::warn!("open-file limit not raised: {error}");
    }
}

/// Client connections that the limit on open files allows: each may need another to a member, and
/// some descriptors are listeners and logs.
pub(crate) fn client_limit() -> usize {
    const OWN: u64 = 64;
    rustix::process::getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |files| {
            let clients = files.saturating_sub(OWN) / 2;
            usize::try_from(clients).unwrap_or(usize::MAX).max(1)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\nweb:x:33:34:,:/:/bin/false\n"
                .to_owned(),
            group: "root:x:0:\nweb:x:34:\ntls:x:50:mail,web\nlogs:x:51:webx\nnogroup:x:65534:\n".to_owned(),
        }
    }

    #[test]
    fn a_user_brings_its_groups() {
        let identity = accounts().identity(Some("web"), None).expect("web");
        assert_eq!((identity.uid, identity.gid), (33, 34));
        assert_eq!(identity.groups, [34, 50]);
    }

    #[test]
    fn group_directive_replaces_the_primary_group() {
        let identity = accounts()
            .identity(Some("#33"), Some("nogroup"))
            .expect("web");
        assert_eq!((identity.name.as_str(), identity.gid), ("web", 65534));
        assert_eq!(identity.groups, [65534, 50]);
    }

    #[test]
    fn without_a_user_it_is_nobody() {
        assert_eq!(accounts().identity(None, None).expect("nobody").uid, 65534);
    }

    #[test]
    fn root_and_unknown_names_are_refused() {
        let error = |user, group| accounts().identity(user, group).expect_err("refused");
        assert_eq!(
            error(Some("root"), None),
            IdentityError::Root("root".into())
        );
        assert_eq!(error(Some("#0"), None), IdentityError::Root("root".into()));
        assert_eq!(
            error(Some("wbe"), None),
            IdentityError::NoUser("wbe".into())
        );
        assert_eq!(
            error(Some("web"), Some("wbe")),
            IdentityError::NoGroup("wbe".into())
        );
    }
}
