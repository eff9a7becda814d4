//! The XDP program loaded for `BPF_PROG_TEST_RUN`, and its maps filled as a `Setup` says: what the
//! model of `model.rs` is held against. Attaches nothing and pins nothing.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, lpm_trie::Key},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    abi::{MAX_SERVICES, map},
    deny::PrefixEntry,
    limit::{ServiceLimits, ServiceWindows, SourceKey, Windows},
    service::ServiceSet,
    settings::Settings,
    verdict::{Action, Counter, Reason, Verdict},
};

use crate::model::{Prefix, Setup};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// The loaded program and what its maps hold.
#[derive(Debug)]
pub struct Kernel {
    /// The object's maps and programs.
    pub ebpf: Ebpf,
    setup: Setup,
}

/// Whether the program can be loaded here; in CI it must.
#[must_use]
pub fn is_skipped() -> bool {
    if rustix::process::geteuid().is_root() {
        return false;
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "in CI these tests run as root"
    );
    eprintln!("SKIPPED: loading a program needs root");
    true
}

fn object() -> Result<Vec<u8>> {
    let path = std::env::var_os("SLUICE_BPF_OBJECT").map_or_else(
        || crate::workspace_root().join("lb-ebpf/prebuilt/sluice.bpf.o"),
        PathBuf::from,
    );
    fs::read(&path).with_context(|| path.display().to_string())
}

impl Kernel {
    /// Loads the committed object, or that of `SLUICE_BPF_OBJECT`.
    pub fn load() -> Result<Self> {
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::STATS)
            .load(&object()?)?;
        for name in ["sluice_xdp", "sluice_pass"] {
            let program: &mut Xdp = ebpf.program_mut(name).context(name)?.try_into()?;
            program.load()?;
        }
        Ok(Self {
            ebpf,
            setup: Setup::default(),
        })
    }

    /// The guard.
    pub fn program(&self) -> Result<&Xdp> {
        Ok(self
            .ebpf
            .program("sluice_xdp")
            .context("sluice_xdp")?
            .try_into()?)
    }

    /// An array of the object by its name.
    pub fn array<T: aya::Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, T>> {
        Ok(Array::try_from(
            self.ebpf.map_mut(name).with_context(|| name.to_owned())?,
        )?)
    }

    /// Makes the maps hold `setup` and nothing of the one before.
    pub fn apply(&mut self, setup: &Setup) -> Result<()> {
        let before = std::mem::replace(&mut self.setup, setup.clone());
        let mut sets = self.array::<ServiceSet>(map::SERVICES)?;
        for set in before.sets().keys() {
            sets.set(*set, ServiceSet::default(), 0)?;
        }
        for (set, value) in setup.sets() {
            sets.set(set, value, 0)?;
        }
        let mut limits = self.array::<ServiceLimits>(map::LIMITS)?;
        for (id, _) in &before.limits {
            limits.set(u32::from(*id), ServiceLimits::default(), 0)?;
        }
        for (id, value) in &setup.limits {
            limits.set(u32::from(*id), value, 0)?;
        }
        let mut windows = self.array::<ServiceWindows>(map::WINDOWS)?;
        for (id, _) in before.limits.iter().chain(&setup.limits) {
            windows.set(u32::from(*id), ServiceWindows::default(), 0)?;
        }
        let sources = self.ebpf.map_mut(map::SOURCES).context(map::SOURCES)?;
        let mut sources: HashMap<_, SourceKey, Windows> = HashMap::try_from(sources)?;
        let keys: Vec<_> = sources.keys().collect::<Result<_, _>>()?;
        for key in keys {
            sources.remove(&key)?;
        }
        self.prefixes(map::DENY4, map::DENY6, &before.deny, &setup.deny)?;
        self.prefixes(map::ALLOW4, map::ALLOW6, &before.allow, &setup.allow)?;
        self.array::<Settings>(map::SETTINGS)?
            .set(0, setup.settings(), 0)?;
        Ok(())
    }

    fn prefixes(&mut self, four: &str, six: &str, old: &[Prefix], new: &[Prefix]) -> Result<()> {
        let v4 = |prefix: &&Prefix| prefix.version == 4;
        let map = self.ebpf.map_mut(four).with_context(|| four.to_owned())?;
        let mut trie: LpmTrie<_, [u8; 4], PrefixEntry> = LpmTrie::try_from(map)?;
        let key = |p: &Prefix| Key::new(p.bits, p.address.as_v4().expect("version says so"));
        for prefix in old.iter().filter(v4) {
            trie.remove(&key(prefix))?;
        }
        for prefix in new.iter().filter(v4) {
            trie.insert(&key(prefix), prefix.entry(), 0)?;
        }
        let map = self.ebpf.map_mut(six).with_context(|| six.to_owned())?;
        let mut trie: LpmTrie<_, [u8; 16], PrefixEntry> = LpmTrie::try_from(map)?;
        let key = |p: &Prefix| Key::new(p.bits, p.address.0);
        for prefix in old.iter().filter(|prefix| !v4(prefix)) {
            trie.remove(&key(prefix))?;
        }
        for prefix in new.iter().filter(|prefix| !v4(prefix)) {
            trie.insert(&key(prefix), prefix.entry(), 0)?;
        }
        Ok(())
    }

    /// Runs one frame through the program and returns what it told the driver.
    pub fn run(&self, frame: &[u8]) -> Result<u32> {
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat: 1,
            ..TestRunOptions::default()
        };
        Ok(self.program()?.test_run(options)?.return_value)
    }

    /// A cell of `COUNTERS`, summed over the CPUs.
    pub fn counter(&self, cell: u32) -> Result<Counter> {
        let map = self.ebpf.map(map::COUNTERS).context(map::COUNTERS)?;
        let counters: PerCpuArray<_, Counter> = PerCpuArray::try_from(map)?;
        Ok(counters
            .get(&cell, 0)?
            .iter()
            .fold(Counter::default(), |sum, cpu| Counter {
                packets: sum.packets + cpu.packets,
                bytes: sum.bytes + cpu.bytes,
            }))
    }

    /// Sources that were entered.
    pub fn sources(&self) -> Result<usize> {
        let map = self.ebpf.map(map::SOURCES).context(map::SOURCES)?;
        let sources: HashMap<_, SourceKey, Windows> = HashMap::try_from(map)?;
        Ok(sources.keys().count())
    }

    /// Runs a frame and demands the verdict: the action, and one packet more in its cell.
    pub fn expect(&self, frame: &[u8], verdict: &Verdict) -> Result<()> {
        let before = self.counter(verdict.cell())?;
        let action = self.run(frame)?;
        let after = self.counter(verdict.cell())?;
        let expected = match verdict.reason.action() {
            Action::Pass => XDP_PASS,
            Action::Drop => XDP_DROP,
            Action::Send => XDP_TX,
        };
        ensure!(
            action == expected,
            "action {action} where the host says {verdict:?}"
        );
        ensure!(
            (after.packets, after.bytes) == (before.packets + 1, before.bytes + verdict.bytes),
            "counters went from {before:?} to {after:?} where the host says {verdict:?}",
        );
        Ok(())
    }

    /// Packets in all cells.
    pub fn packets(&self) -> Result<u64> {
        (0..MAX_SERVICES * Reason::COUNT)
            .map(|cell| Ok(self.counter(cell)?.packets))
            .sum::<Result<u64>>()
    }
}
