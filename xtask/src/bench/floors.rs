//! Floor programs: what a packet costs before a program does anything useful and what the least
//! balancer costs; and ways to have every packet come from another source and arrive as it was.
//!
//! Assembled here, instruction by instruction, into an ELF object of their own: they need no BPF
//! compiler, and the committed object stays what it is. `BPF_PROG_TEST_RUN` does not restore the
//! packet between repeats, which the changing programs make use of: the packet itself is their
//! counter. They keep the sum of the IPv4 header as it was, so its checksum stays right. A program
//! that rewrites packets is driven by a restoring one; else every repeat but the first would
//! measure what it does with its own output.

mod code;
mod programs;

use anyhow::{Context as _, Result, ensure};
use aya::{
    Ebpf, EbpfLoader,
    maps::{Array, HashMap, MapData, PerCpuArray, ProgramArray},
    programs::Xdp,
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Relocation, SectionId, Symbol, SymbolId, SymbolSection},
};

use self::{code::Code, programs::Range};

/// Returns `XDP_PASS`: the harness alone.
pub(super) const PASS: &str = "floor_pass";
/// Returns `XDP_DROP`.
pub(super) const DROP: &str = "floor_drop";
/// Reads Ethernet, IPv4 and TCP as far as addresses and ports, then passes.
pub(super) const PARSE: &str = "floor_parse";
/// The least balancer: service, flow, member, counter, IPv4 in IPv4, `XDP_TX`.
pub(super) const BALANCE: &str = "floor_balance";
/// Gives each packet the next of 65 536 sources, then runs what `NEXT` holds.
pub(super) const SOURCES_64K: &str = "sources_64k";
/// Gives each packet the next of 16 777 216 sources, then runs what `NEXT` holds.
pub(super) const SOURCES_16M: &str = "sources_16m";
/// Restores the packet and runs what `NEXT` holds.
pub(super) const RESTORE: &str = "restore";
/// Both at once: 65 536 sources.
pub(super) const RESTORE_64K: &str = "restore_64k";
/// Both at once: 1 048 576 sources.
pub(super) const RESTORE_1M: &str = "restore_1m";
/// Both at once: 16 777 216 sources.
pub(super) const RESTORE_16M: &str = "restore_16m";

const ALL: [&str; 10] = [
    PASS,
    DROP,
    PARSE,
    BALANCE,
    SOURCES_64K,
    SOURCES_16M,
    RESTORE,
    RESTORE_64K,
    RESTORE_1M,
    RESTORE_16M,
];

/// The program array through which the driving programs go on.
const NEXT: &str = "NEXT";
/// Length (u64) and first bytes of the packet as it is to be restored.
const ORIGINAL: &str = "ORIGINAL";
/// Services of the least balancer: address, port, protocol.
const VIPS: &str = "VIPS";
/// Its flows: source, destination, ports, protocol, and the member of each.
const FLOWS: &str = "FLOWS";
/// Its members: IPv4 address, MAC.
const MEMBERS: &str = "MEMBERS";
/// What it counts.
const COUNTS: &str = "COUNTS";

/// Name, kind (include/uapi/linux/bpf.h), bytes of key and value, entries.
const MAPS: [(&str, u32, u32, u32, u32); 6] = [
    (NEXT, 3, 4, 4, 1),
    (ORIGINAL, 2, 4, 8 + at::RESTORED.unsigned_abs() as u32, 1),
    (VIPS, 1, 8, 4, 64),
    (FLOWS, 9, 16, 4, 1 << 20),
    (MEMBERS, 2, 4, 16, BALANCED),
    (COUNTS, 6, 4, 8, 1),
];
/// Members of the least balancer.
const BALANCED: u32 = 4;
/// Relocation of a map's address into a 64-bit immediate (linux/bpf psABI).
const R_BPF_64_64: u32 = 1;

/// Offsets in an untagged IPv4 frame without options.
mod at {
    pub(super) const ETHERTYPE: i16 = 12;
    pub(super) const VERSION: i16 = 14;
    pub(super) const TOS: i16 = 15;
    pub(super) const LENGTH: i16 = 16;
    pub(super) const IDENTIFICATION: i16 = 18;
    pub(super) const TTL: i16 = 22;
    pub(super) const PROTOCOL: i16 = 23;
    pub(super) const CHECKSUM: i16 = 24;
    pub(super) const SOURCE: i16 = 26;
    pub(super) const DESTINATION: i16 = 30;
    pub(super) const PORTS: i16 = 34;
    pub(super) const END: i32 = 54;
    /// Bytes that are restored: frames for that are at least so long.
    pub(super) const RESTORED: i16 = 64;
}

/// The loaded floors.
#[derive(Debug)]
pub(super) struct Floors {
    ebpf: Ebpf,
}

impl Floors {
    /// Assembles and loads them.
    pub(super) fn load() -> Result<Self> {
        let bytes = assemble().context("assembling the floor programs")?;
        let mut ebpf = EbpfLoader::new()
            .load(&bytes)
            .context("loading the floor programs")?;
        for name in ALL {
            let program: &mut Xdp = ebpf.program_mut(name).context(name)?.try_into()?;
            program.load().context(name)?;
        }
        Ok(Self { ebpf })
    }

    /// A floor by its name.
    pub(super) fn program(&self, name: &'static str) -> Result<&Xdp> {
        Ok(self.ebpf.program(name).context(name)?.try_into()?)
    }

    /// Makes the driving programs go on with `program`; `None`: with [`PASS`].
    pub(super) fn go_on_with(&mut self, program: Option<&Xdp>) -> Result<()> {
        let fd = match program {
            Some(program) => program.fd()?.try_clone()?,
            None => self.program(PASS)?.fd()?.try_clone()?,
        };
        self.set_next(&fd)
    }

    /// Makes the driving programs go on with a floor.
    pub(super) fn go_on_with_floor(&mut self, name: &'static str) -> Result<()> {
        let fd = self.program(name)?.fd()?.try_clone()?;
        self.set_next(&fd)
    }

    fn set_next(&mut self, fd: &aya::programs::ProgramFd) -> Result<()> {
        let map = self.ebpf.map_mut(NEXT).context(NEXT)?;
        let mut next: ProgramArray<&mut MapData> = ProgramArray::try_from(map)?;
        Ok(next.set(0, fd, 0)?)
    }

    /// Tells the restoring programs what packets look like.
    pub(super) fn restore_to(&mut self, frame: &[u8]) -> Result<()> {
        let length = usize::from(at::RESTORED.unsigned_abs());
        ensure!(frame.len() >= length, "too short to be restored");
        let mut original = [0; 72];
        original[..8].copy_from_slice(&(frame.len() as u64).to_le_bytes());
        original[8..].copy_from_slice(&frame[..length]);
        let map = self.ebpf.map_mut(ORIGINAL).context(ORIGINAL)?;
        let mut array: Array<&mut MapData, [u8; 72]> = Array::try_from(map)?;
        Ok(array.set(0, original, 0)?)
    }

    /// Packets that the least balancer has sent on.
    pub(super) fn balanced(&self) -> Result<u64> {
        let map = self.ebpf.map(COUNTS).context(COUNTS)?;
        let counts: PerCpuArray<&MapData, u64> = PerCpuArray::try_from(map)?;
        Ok(counts.get(&0, 0)?.iter().sum())
    }

    /// Makes what a frame is sent to the least balancer's only service.
    pub(super) fn balance(&mut self, frame: &[u8]) -> Result<()> {
        let field = |offset: i16| usize::from(offset.unsigned_abs());
        let mut key = [0; 8];
        key[..4].copy_from_slice(&frame[field(at::DESTINATION)..][..4]);
        key[4..6].copy_from_slice(&frame[field(at::PORTS) + 2..][..2]);
        key[6] = 6;
        let map = self.ebpf.map_mut(VIPS).context(VIPS)?;
        let mut vips: HashMap<&mut MapData, [u8; 8], u32> = HashMap::try_from(map)?;
        vips.insert(key, 0, 0)?;
        let map = self.ebpf.map_mut(MEMBERS).context(MEMBERS)?;
        let mut members: Array<&mut MapData, [u8; 16]> = Array::try_from(map)?;
        for number in 0..BALANCED {
            let last = number.to_le_bytes()[0];
            let mut member = [0; 16];
            member[..4].copy_from_slice(&[10, 0, 0, last]);
            member[4..10].copy_from_slice(&[2, 0, 0, 0, 0, last]);
            members.set(number, member, 0)?;
        }
        Ok(())
    }
}

/// Makes a frame one that the driving programs may begin with: whatever they change in the source
/// address, they change the other way in the TOS byte and the identification.
pub(super) fn prepare(frame: &mut [u8]) {
    let field = |offset: i16| usize::from(offset.unsigned_abs());
    frame[field(at::SOURCE)..field(at::DESTINATION)].copy_from_slice(&[11, 0, 0, 0]);
    frame[field(at::TOS)] = 0xff;
    frame[field(at::IDENTIFICATION)..][..2].copy_from_slice(&[0xff, 0xff]);
    lab::packet::set_checksum(&mut frame[field(at::VERSION)..field(at::PORTS)]);
}

/// Fails unless `out` is what the least balancer makes of `frame`, whatever its source became: one
/// outer header with a right checksum, and the packet within.
pub(super) fn check_sent_on(frame: &[u8], out: &[u8]) -> Result<()> {
    let field = |offset: i16| usize::from(offset.unsigned_abs());
    let outer = 20;
    ensure!(
        out.len() == frame.len() + outer,
        "{} bytes became {}",
        frame.len(),
        out.len()
    );
    let (header, within) = out[field(at::VERSION)..].split_at(outer);
    let mut summed = header.to_vec();
    lab::packet::set_checksum(&mut summed);
    ensure!(summed == header, "the outer header's checksum is wrong");
    let length = u16::from_be_bytes([header[2], header[3]]);
    let was = u16::from_be_bytes([frame[field(at::LENGTH)], frame[field(at::LENGTH) + 1]]);
    ensure!(
        usize::from(length) == usize::from(was) + outer && header[9] == 4,
        "the outer header is wrong: {header:02x?}"
    );
    let rest = field(at::DESTINATION) - field(at::VERSION);
    ensure!(
        within[rest..] == frame[field(at::DESTINATION)..],
        "the packet within was changed"
    );
    Ok(())
}

/// Makes a frame long enough to be restored: what follows the IP packet is Ethernet's padding.
pub(super) fn pad(frame: &mut Vec<u8>) {
    let least = usize::from(at::RESTORED.unsigned_abs());
    frame.resize(frame.len().max(least), 0);
}

fn assemble() -> Result<Vec<u8>> {
    let mut elf = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let license = elf.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    elf.append_section_data(license, b"Dual MIT/GPL\0", 1);

    let maps = elf.add_section(Vec::new(), b"maps".to_vec(), SectionKind::Data);
    let mut symbols = std::collections::HashMap::new();
    for (name, kind, key, value, entries) in MAPS {
        // struct bpf_map_def: type, key, value, entries, flags.
        let definition: Vec<u8> = [kind, key, value, entries, 0]
            .into_iter()
            .flat_map(u32::to_le_bytes)
            .collect();
        let start = elf.append_section_data(maps, &definition, 4);
        let id = symbol(
            &mut elf,
            name,
            SymbolKind::Data,
            maps,
            start,
            definition.len(),
        );
        symbols.insert(name, id);
    }

    let programs = [
        (PASS, programs::answer(programs::XDP_PASS)),
        (DROP, programs::answer(programs::XDP_DROP)),
        (PARSE, programs::parse_only()),
        (BALANCE, programs::balance()),
        (SOURCES_64K, programs::changing(Range::Low16)),
        (SOURCES_16M, programs::changing(Range::Low24)),
        (RESTORE, programs::restoring(Range::One)),
        (RESTORE_64K, programs::restoring(Range::Low16)),
        (RESTORE_1M, programs::restoring(Range::Low20)),
        (RESTORE_16M, programs::restoring(Range::Low24)),
    ];
    // Fragments allowed, as in the object: a tail call goes between programs of one kind only.
    let text = elf.add_section(Vec::new(), b"xdp.frags".to_vec(), SectionKind::Text);
    for (name, (mut code, answer)) in programs {
        let bytes = code.end(answer);
        let start = elf.append_section_data(text, &bytes, 8);
        symbol(&mut elf, name, SymbolKind::Text, text, start, bytes.len());
        relocate(&mut elf, text, start, &code, &symbols)?;
    }
    Ok(elf.write()?)
}

fn relocate(
    elf: &mut Object<'_>,
    text: SectionId,
    start: u64,
    code: &Code,
    symbols: &std::collections::HashMap<&str, SymbolId>,
) -> Result<()> {
    for reference in &code.references {
        let relocation = Relocation {
            offset: start + 8 * reference.word as u64,
            symbol: *symbols.get(reference.map).context(reference.map)?,
            addend: 0,
            flags: object::RelocationFlags::Elf {
                r_type: R_BPF_64_64,
            },
        };
        elf.add_relocation(text, relocation)?;
    }
    Ok(())
}

fn symbol(
    elf: &mut Object<'_>,
    name: &str,
    kind: SymbolKind,
    section: SectionId,
    value: u64,
    size: usize,
) -> SymbolId {
    elf.add_symbol(Symbol {
        name: name.as_bytes().to_vec(),
        value,
        size: size as u64,
        kind,
        scope: SymbolScope::Linkage,
        weak: false,
        section: SymbolSection::Section(section),
        flags: SymbolFlags::None,
    })
}
