//! How many shards run, and on which CPUs: from the affinity mask of this process and the CPU quota
//! of its control group (version 2 `cpu.max`, version 1 `cpu.cfs_quota_us`). Counting is pure; only
//! [`Cpus::of_process`] reads.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rustix::thread::{CpuSet, sched_getaffinity};

/// What this process may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpus {
    /// CPUs of the affinity mask, ascending; empty where the kernel does not tell.
    pub(crate) allowed: Vec<u32>,
    /// CPU time per time that the control group may use, thousandths; `None`: no quota.
    pub(crate) quota: Option<u64>,
}

impl Cpus {
    /// As it is now.
    pub(crate) fn of_process() -> Self {
        let allowed = sched_getaffinity(None).map_or_else(
            |_| Vec::new(),
            |mask| {
                (0..CpuSet::MAX_CPU)
                    .filter(|cpu| mask.is_set(*cpu))
                    .filter_map(|cpu| u32::try_from(cpu).ok())
                    .collect()
            },
        );
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let quota = quota(
            &read("/proc/self/cgroup"),
            &read("/proc/self/mountinfo"),
            |path| fs::read_to_string(path).ok(),
        );
        Self { allowed, quota }
    }

    /// `SluiceShards`, else one per allowed CPU, but no more than the quota can keep running: its
    /// CPUs rounded up, so that 1.5 CPUs run as two shards and no quota goes unused.
    pub(crate) fn shards(&self, configured: Option<u32>) -> usize {
        let configured = configured.and_then(|n| usize::try_from(n).ok());
        let by_quota = self
            .quota
            .and_then(|quota| usize::try_from(quota.div_ceil(1000)).ok())
            .unwrap_or(usize::MAX);
        configured
            .unwrap_or_else(|| self.allowed.len().min(by_quota))
            .max(1)
    }

    /// What there is, in words.
    pub(crate) fn describe(&self, configured: Option<u32>) -> String {
        let list: Vec<String> = self.allowed.iter().map(u32::to_string).collect();
        let quota = self.quota.map_or_else(
            || "no quota".to_owned(),
            |quota| format!("a quota of {}", quota as f64 / 1000.0),
        );
        let shards = self.shards(configured);
        let pinned = if self.pins(shards).iter().any(Option::is_some) {
            "pinned"
        } else {
            "not pinned"
        };
        format!(
            "{} allowed ({}), {quota}: {}, {pinned}",
            self.allowed.len(),
            list.join(" "),
            super::control::count(shards, "shard")
        )
    }

    /// The CPU of each shard. `None`, wherever the scheduler likes, when there are fewer shards than
    /// CPUs: pinned to the first ones they would share these with whatever else of the host does the
    /// same, and packets of the other CPUs would be nobody's.
    pub(crate) fn pins(&self, shards: usize) -> Vec<Option<u32>> {
        let all = !self.allowed.is_empty() && shards >= self.allowed.len();
        (0..shards)
            .map(|shard| all.then(|| self.allowed[shard % self.allowed.len()]))
            .collect()
    }
}

/// A mounted control group file system.
struct Mount {
    /// Which group is at its top.
    root: PathBuf,
    at: PathBuf,
}

/// The tightest quota of a process's group and those above it, thousandths of a CPU. `cgroups` is
/// `/proc/self/cgroup`, `mounts` is `/proc/self/mountinfo` (proc(5)).
fn quota(cgroups: &str, mounts: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let mut least: Option<u64> = None;
    for line in cgroups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) =
            (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let unified = controllers.is_empty();
        if !unified && !controllers.split(',').any(|name| name == "cpu") {
            continue;
        }
        let Some(mount) = mounts.lines().find_map(|line| mount(line, unified)) else {
            continue;
        };
        // A group outside what is mounted here: a container's, whose own group is the mount's top.
        let below = Path::new(path)
            .strip_prefix(&mount.root)
            .unwrap_or(Path::new(""));
        // Names may climb (a process moved out of its namespace's root): those groups are not here.
        let below: PathBuf = below
            .components()
            .filter(|part| matches!(part, std::path::Component::Normal(_)))
            .collect();
        for above in below.ancestors() {
            let group = mount.at.join(above);
            let found = if unified {
                read(&group.join("cpu.max")).and_then(|text| {
                    let (quota, period) = text.trim().split_once(' ')?;
                    thousandths(quota, period)
                })
            } else {
                let file = |name| read(&group.join(name));
                file("cpu.cfs_quota_us")
                    .zip(file("cpu.cfs_period_us"))
                    .and_then(|(quota, period)| thousandths(quota.trim(), period.trim()))
            };
            least = match (least, found) {
                (Some(least), Some(found)) => Some(least.min(found)),
                (least, found) => least.or(found),
            };
        }
    }
    least
}

/// A line of mountinfo, when it is the version 2 hierarchy (`unified`) or version 1's with `cpu`.
fn mount(line: &str, unified: bool) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ').skip(3);
    let (root, at) = (before.next()?, before.next()?);
    let mut after = after.split(' ');
    let (kind, _, options) = (after.next()?, after.next()?, after.next()?);
    let ours = if unified {
        kind == "cgroup2"
    } else {
        kind == "cgroup" && options.split(',').any(|option| option == "cpu")
    };
    ours.then(|| Mount {
        root: root.into(),
        at: at.into(),
    })
}

/// `max` and `-1` are no quota; so is what cannot be read.
fn thousandths(quota: &str, period: &str) -> Option<u64> {
    let quota: u64 = quota.parse().ok()?;
    let period: u64 = period.parse().ok().filter(|period| *period > 0)?;
    Some(quota.saturating_mul(1000).div_ceil(period).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V2: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw\n";
    const V1: &str = "31 25 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      32 25 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n";

    fn reader(files: &'static [(&str, &str)]) -> impl Fn(&Path) -> Option<String> {
        move |path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| (*text).to_owned())
        }
    }

    #[test]
    fn tightest_group_above_counts() {
        let read = reader(&[
            ("/sys/fs/cgroup/a/cpu.max", "250000 100000\n"),
            ("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
        ]);
        assert_eq!(quota("0::/a/b\n", V2, read), Some(2500));
        let read = reader(&[
            ("/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "50000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ]);
        let cgroups = "4:memory:/m\n3:cpu,cpuacct:/x\n0::/\n";
        assert_eq!(quota(cgroups, V1, read), Some(500));
    }

    #[test]
    fn container_sees_its_group_at_the_top_of_the_mount() {
        let read = reader(&[("/sys/fs/cgroup/cpu.max", "150000 100000\n")]);
        // Cgroup namespace: the path is that of the host, or climbs out.
        for path in ["0::/system.slice/docker-1.scope\n", "0::/../..\n", "0::/\n"] {
            assert_eq!(quota(path, V2, &read), Some(1500), "{path}");
        }
        let bound = V2.replace(" / ", " /kube/pod1 ");
        assert_eq!(quota("0::/kube/pod1\n", &bound, &read), Some(1500));
    }

    #[test]
    fn what_cannot_be_read_is_no_quota() {
        for text in ["max 100000", "", "100000", "x 100000", "100000 0", "-5 10"] {
            let read = |_: &Path| Some(text.to_owned());
            assert_eq!(quota("0::/\n", V2, read), None, "{text:?}");
        }
        assert_eq!(quota("garbage\n0\n::\n", "x - y\n", |_| None), None);
    }

    #[test]
    fn shards_are_counted_from_mask_and_quota_rounded_up() {
        let cpus = |allowed: &[u32], quota| Cpus {
            allowed: allowed.to_vec(),
            quota,
        };
        assert_eq!(cpus(&[0, 1, 2, 3], None).shards(None), 4);
        assert_eq!(cpus(&[0, 1, 2, 3], Some(1500)).shards(None), 2);
        assert_eq!(cpus(&[0, 1, 2, 3], Some(100)).shards(None), 1);
        assert_eq!(cpus(&[5], Some(8000)).shards(None), 1);
        assert_eq!(cpus(&[0, 1], Some(100)).shards(Some(7)), 7);
        assert_eq!(cpus(&[], None).shards(None), 1);
    }

    #[test]
    fn every_cpu_has_a_shard_or_none_is_pinned() {
        let cpus = Cpus {
            allowed: vec![2, 5],
            quota: None,
        };
        assert_eq!(cpus.pins(2), [Some(2), Some(5)]);
        assert_eq!(cpus.pins(3), [Some(2), Some(5), Some(2)]);
        assert_eq!(cpus.pins(1), [None]);
        assert_eq!(Cpus::default().pins(2), [None, None]);
    }
}
