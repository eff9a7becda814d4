//! The XDP program loaded for `BPF_PROG_TEST_RUN`, and its maps filled as a `Setup` says: what the
//! model of `model.rs` is held against. Attaches nothing and pins nothing.

use std::{fmt, fs, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray, ProgramArray, lpm_trie::Key},
    programs::{TestRun as _, TestRunOptions, Xdp},
};
use lb_common::{
    abi::{MAX_SERVICES, map},
    deny::PrefixEntry,
    journey::{Outcome, Then},
    limit::{ServiceLimits, ServiceWindows, SourceKey, Windows},
    ring::RingRow,
    service::ServiceSet,
    settings::{Settings, Sizes},
    verdict::{Action, Counter, Reason},
};

mod steering;

use crate::model::{Prefix, Setup, Steering};

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;

/// The loaded program and what its maps hold.
pub struct Kernel {
    /// The object's maps and programs.
    pub ebpf: Ebpf,
    setup: Setup,
    sets: u32,
    nat: u32,
    rings: Vec<(Vec<u16>, Array<MapData, RingRow>)>,
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

impl fmt::Debug for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kernel").finish_non_exhaustive()
    }
}

impl Kernel {
    /// Loads the committed object, or that of `SLUICE_BPF_OBJECT`, with tables of the default sizes.
    pub fn load() -> Result<Self> {
        let sizes = Steering::default();
        Self::load_sized(sizes.sets, sizes.nat)
    }

    /// The same with tables of these sizes, powers of two.
    pub fn load_sized(sets: u32, nat: u32) -> Result<Self> {
        let sizes = Sizes {
            mask4: sets - 1,
            mask6: sets - 1,
            nat_mask: nat - 1,
            beat_shift: 8,
        };
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(VerifierLogLevel::STATS)
            .override_global("SIZES", &sizes, true)
            .map_max_entries(map::FLOWS4, sets)
            .map_max_entries(map::FLOWS6, sets)
            .map_max_entries(map::NAT, nat)
            .load(&object()?)?;
        for name in ["sluice_xdp", "sluice_pass"] {
            let program: &mut Xdp = ebpf.program_mut(name).context(name)?.try_into()?;
            program.load()?;
        }
        for (step, name) in Then::PROGRAMS {
            let program: &mut Xdp = ebpf.program_mut(name).context(*name)?.try_into()?;
            program.load().context(*name)?;
            let fd = program.fd()?.try_clone()?;
            let steps = ebpf.map_mut(map::STEPS).context(map::STEPS)?;
            ProgramArray::try_from(steps)?.set(*step as u32, &fd, 0)?;
        }
        Ok(Self {
            ebpf,
            setup: Setup::default(),
            sets,
            nat,
            rings: Vec::new(),
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

    /// A program by its name.
    pub fn named(&self, name: &'static str) -> Result<&Xdp> {
        Ok(self.ebpf.program(name).context(name)?.try_into()?)
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
        self.apply_steering(&before.steering, &setup.steering)?;
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
        Ok(self.run_whole(frame)?.0)
    }

    /// Runs one frame through the program: what it told the driver, and the frame as it left.
    pub fn run_whole(&self, frame: &[u8]) -> Result<(u32, Vec<u8>)> {
        let mut out = vec![0; frame.len() + 512];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            repeat: 1,
            ..TestRunOptions::default()
        };
        let result = self.program()?.test_run(options)?;
        let len = usize::try_from(result.data_size_out)?;
        out.truncate(len);
        Ok((result.return_value, out))
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

    /// Runs a frame and demands what the host made of it: the action, the same bytes, and one packet
    /// more in its cell.
    pub fn expect(&self, frame: &[u8], outcome: &(Outcome, Vec<u8>)) -> Result<()> {
        let (Outcome { verdict, .. }, bytes) = outcome;
        let before = self.counter(verdict.cell())?;
        let (action, out) = self.run_whole(frame)?;
        let after = self.counter(verdict.cell())?;
        let expected = match verdict.reason.action() {
            Action::Pass => XDP_PASS,
            Action::Drop => XDP_DROP,
            Action::Send => XDP_TX,
        };
        ensure!(
            (after.packets, after.bytes) == (before.packets + 1, before.bytes + verdict.bytes),
            "counters went from {before:?} to {after:?} where the host says {verdict:?}, {}",
            verdict.reason.name()
        );
        ensure!(
            action == expected,
            "action {action} where the host says {verdict:?}"
        );
        ensure!(
            expected == XDP_DROP || out == *bytes,
            "the frame left as\n{out:02x?}, on the host as\n{bytes:02x?}, {verdict:?}"
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
