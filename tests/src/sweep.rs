//! Taking labs away: at the end of a run, on Ctrl-C, and after a run that crashed.
//!
//! A lab is known by its id, `sl<process>x<number>`, with which all its names begin. Cleaning needs
//! nothing but the id, so that the same code serves a lab of this process and one whose process is
//! gone.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::{
    mount::{MountFlags, UnmountFlags, mount, unmount},
    process::{Pid, Signal, kill_process, test_kill_process},
};

use crate::{netns, wait};

/// Folder of all labs' private folders.
const ROOT: &str = "/run/sluice-lab";

static NUMBER: AtomicU32 = AtomicU32::new(0);
static LIVE: Mutex<Vec<LabId>> = Mutex::new(Vec::new());
static ONCE: Once = Once::new();
static WATCH: Once = Once::new();
static ACTIONS: Mutex<Vec<Action>> = Mutex::new(Vec::new());

type Action = Box<dyn FnOnce() + Send>;

/// Whose lab, and which: process id and a number within the process.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct LabId {
    process: u32,
    number: u32,
}

impl LabId {
    /// Takes a new id in this process. The first call takes away what crashed runs left and
    /// arranges for the end of this process by signal.
    pub fn take() -> Result<Self> {
        ONCE.call_once(|| {
            sweep_dead();
        });
        WATCH.call_once(clean_on_signal);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let id = Self {
            process: std::process::id(),
            number,
        };
        live().push(id);
        fs::create_dir_all(id.dir()).with_context(|| format!("making {}", id.dir().display()))?;
        Ok(id)
    }

    /// What all names of the lab begin with.
    pub fn prefix(self) -> String {
        format!("sl{}x{}", self.process, self.number)
    }

    /// The lab's private folder.
    pub fn dir(self) -> PathBuf {
        Path::new(ROOT).join(self.prefix())
    }

    /// The lab's private bpf filesystem, inside its folder.
    pub fn bpffs(self) -> PathBuf {
        self.dir().join("bpf")
    }

    /// Mounts the private bpf filesystem. It is not under /sys, which `ip netns exec` mounts anew.
    pub fn mount_bpffs(self) -> Result<PathBuf> {
        let path = self.bpffs();
        fs::create_dir_all(&path)?;
        mount("bpf", &path, "bpf", MountFlags::empty(), None)
            .with_context(|| format!("mounting a bpf filesystem on {}", path.display()))?;
        Ok(path)
    }

    /// Takes everything of the lab away: processes, namespaces (and with them their interfaces and
    /// XDP programs), pins, files. What is already gone is no error.
    pub fn clean(self) {
        let prefix = format!("{}-", self.prefix());
        let mine: Vec<_> = netns::names()
            .into_iter()
            .filter(|name| name.starts_with(&prefix))
            .collect();
        for name in &mine {
            kill_inside(name);
        }
        for name in &mine {
            let _ = Command::new("ip").args(["netns", "delete", name]).output();
            crate::dns::forget(name);
        }
        let _ = unmount(self.bpffs(), UnmountFlags::DETACH);
        let _ = fs::remove_dir_all(self.dir());
        live().retain(|id| *id != self);
    }

    fn parse(name: &str) -> Option<Self> {
        let (process, rest) = name.strip_prefix("sl")?.split_once('x')?;
        let number = rest.split_once('-').map_or(rest, |(number, _)| number);
        Some(Self {
            process: process.parse().ok()?,
            number: number.parse().ok()?,
        })
    }

    fn is_dead(self) -> bool {
        i32::try_from(self.process)
            .ok()
            .and_then(Pid::from_raw)
            .is_none_or(|pid| test_kill_process(pid).is_err())
    }
}

/// Takes away labs whose process no longer lives; says how many there were.
pub fn sweep_dead() -> usize {
    let folders = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let mut dead: Vec<LabId> = netns::names()
        .into_iter()
        .chain(folders.filter_map(|entry| entry.file_name().into_string().ok()))
        .filter_map(|name| LabId::parse(&name))
        .filter(|id| id.is_dead())
        .collect();
    dead.sort_by_key(|id| (id.process, id.number));
    dead.dedup();
    for id in &dead {
        id.clean();
    }
    dead.len()
}

/// Has `action` done as well when this process is ended by SIGINT or SIGTERM.
pub fn on_signal(action: impl FnOnce() + Send + 'static) {
    WATCH.call_once(clean_on_signal);
    lock(&ACTIONS).push(Box::new(action));
}

/// Ends every process inside a namespace of ours, the hard way, and waits until it is gone.
fn kill_inside(name: &str) {
    let gone = wait::until("processes to end", Duration::from_secs(5), || {
        let output = Command::new("ip")
            .args(["netns", "pids", name])
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let pids: Vec<Pid> = text
            .lines()
            .filter_map(|line| line.trim().parse().ok())
            .filter_map(Pid::from_raw)
            .collect();
        for pid in &pids {
            let _ = kill_process(*pid, Signal::KILL);
        }
        // A killed child of ours stays a zombie, out of its namespace, until its owner reaps it.
        pids.is_empty().then_some(())
    });
    if let Err(error) = gone {
        eprintln!("lab: {name}: {error}");
    }
}

/// On SIGINT and SIGTERM: takes this process's labs away, then ends with the signal's exit code.
fn clean_on_signal() {
    thread::spawn(|| {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        else {
            return;
        };
        let code = runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut interrupt = signal(SignalKind::interrupt()).ok()?;
            let mut terminate = signal(SignalKind::terminate()).ok()?;
            Some(tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            })
        });
        if let Some(code) = code {
            for action in lock(&ACTIONS).drain(..) {
                action();
            }
            let ids = live().clone();
            for id in ids {
                id.clean();
            }
            std::process::exit(code);
        }
    });
}

fn live() -> MutexGuard<'static, Vec<LabId>> {
    lock(&LIVE)
}

fn lock<T>(mutex: &'static Mutex<T>) -> MutexGuard<'static, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::LabId;

    #[test]
    fn id_is_read_back_from_any_name_of_the_lab() {
        let id = LabId {
            process: 4_194_304,
            number: 12,
        };
        assert_eq!(LabId::parse(&id.prefix()), Some(id));
        assert_eq!(LabId::parse(&format!("{}-member-1", id.prefix())), Some(id));
    }

    #[test]
    fn foreign_namespace_is_no_lab() {
        for name in ["default", "slx1", "sl12", "slab-1", "sl1x", "cni-1234"] {
            assert_eq!(LabId::parse(name), None, "{name}");
        }
    }

    #[test]
    fn lab_of_a_live_process_is_not_dead() {
        assert!(
            !LabId {
                process: std::process::id(),
                number: 0
            }
            .is_dead()
        );
    }
}
