//! Floor programs: what a packet costs before a program does anything useful, and a way to have
//! every packet come from another source.
//!
//! Assembled here, instruction by instruction, into an ELF object of their own: they need no BPF
//! compiler, and the committed object stays what it is. `BPF_PROG_TEST_RUN` does not restore the
//! packet between repeats, which the varying programs make use of: the packet itself is their
//! counter. They keep the sum of the IPv4 header as it was, so its checksum stays right.

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, EbpfLoader,
    maps::{MapData, ProgramArray},
    programs::Xdp,
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Relocation, SectionId, Symbol, SymbolId, SymbolSection},
};

/// Returns `XDP_PASS`: the harness alone.
pub(super) const PASS: &str = "floor_pass";
/// Returns `XDP_DROP`.
pub(super) const DROP: &str = "floor_drop";
/// Reads Ethernet, IPv4 and TCP as far as addresses and ports, then passes.
pub(super) const PARSE: &str = "floor_parse";
/// Gives each packet the next of 65 536 sources, then runs what `NEXT` holds.
pub(super) const SOURCES_64K: &str = "sources_64k";
/// Gives each packet the next of 16 777 216 sources, then runs what `NEXT` holds.
pub(super) const SOURCES_16M: &str = "sources_16m";

/// The program array through which the varying programs go on.
const NEXT: &str = "NEXT";
const PROG_ARRAY: u32 = 3;
const TAIL_CALL: i32 = 12;
const XDP_DROP: i32 = 1;
const XDP_PASS: i32 = 2;
/// Relocation of a map's address into a 64-bit immediate (linux/bpf psABI).
const R_BPF_64_64: u32 = 1;

/// Offsets in an untagged IPv4 frame without options.
mod at {
    pub(super) const ETHERTYPE: i16 = 12;
    pub(super) const VERSION: i16 = 14;
    pub(super) const TOS: i16 = 15;
    pub(super) const IDENTIFICATION: i16 = 18;
    pub(super) const PROTOCOL: i16 = 23;
    pub(super) const SOURCE: i16 = 26;
    pub(super) const DESTINATION: i16 = 30;
    pub(super) const PORTS: i16 = 34;
    pub(super) const END: i32 = 54;
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
        for name in [PASS, DROP, PARSE, SOURCES_64K, SOURCES_16M] {
            let program: &mut Xdp = ebpf.program_mut(name).context(name)?.try_into()?;
            program.load().context(name)?;
        }
        Ok(Self { ebpf })
    }

    /// A floor by its name.
    pub(super) fn program(&self, name: &'static str) -> Result<&Xdp> {
        Ok(self.ebpf.program(name).context(name)?.try_into()?)
    }

    /// Makes the varying programs go on with `program`; `None`: with [`PASS`].
    pub(super) fn go_on_with(&mut self, program: Option<&Xdp>) -> Result<()> {
        let fd = match program {
            Some(program) => program.fd()?.try_clone()?,
            None => self.program(PASS)?.fd()?.try_clone()?,
        };
        let map = self.ebpf.map_mut(NEXT).context(NEXT)?;
        let mut next: ProgramArray<&mut MapData> = ProgramArray::try_from(map)?;
        Ok(next.set(0, &fd, 0)?)
    }
}

/// Makes a frame one that the varying programs may begin with: whatever they change in the source
/// address, they change the other way in the TOS byte and the identification.
pub(super) fn prepare(frame: &mut [u8]) {
    let field = |offset: i16| usize::from(offset.unsigned_abs());
    frame[field(at::SOURCE)..field(at::DESTINATION)].copy_from_slice(&[11, 0, 0, 0]);
    frame[field(at::TOS)] = 0xff;
    frame[field(at::IDENTIFICATION)..][..2].copy_from_slice(&[0xff, 0xff]);
    lab::packet::set_checksum(&mut frame[field(at::VERSION)..field(at::PORTS)]);
}

/// Registers by their roles here.
mod r {
    pub(super) const RETURN: u8 = 0;
    pub(super) const CTX: u8 = 1;
    pub(super) const DATA: u8 = 2;
    pub(super) const END: u8 = 3;
    pub(super) const LIMIT: u8 = 4;
    pub(super) const A: u8 = 5;
    pub(super) const SAVED: u8 = 6;
    pub(super) const B: u8 = 7;
}

/// Instructions of one program; jumps that leave go to the last one, `exit`.
#[derive(Default)]
struct Code {
    words: Vec<[u8; 8]>,
    leaving: Vec<usize>,
    map: Option<usize>,
}

impl Code {
    fn op(&mut self, op: u8, to: u8, from: u8, offset: i16, number: i32) -> &mut Self {
        let mut word = [op, to | from << 4, 0, 0, 0, 0, 0, 0];
        word[2..4].copy_from_slice(&offset.to_le_bytes());
        word[4..].copy_from_slice(&number.to_le_bytes());
        self.words.push(word);
        self
    }

    fn set(&mut self, to: u8, number: i32) -> &mut Self {
        self.op(0xb7, to, 0, 0, number)
    }

    fn copy(&mut self, to: u8, from: u8) -> &mut Self {
        self.op(0xbf, to, from, 0, 0)
    }

    fn load_u8(&mut self, to: u8, offset: i16) -> &mut Self {
        self.op(0x71, to, r::DATA, offset, 0)
    }

    fn load_u16(&mut self, to: u8, offset: i16) -> &mut Self {
        self.op(0x69, to, r::DATA, offset, 0)
    }

    fn load_u32(&mut self, to: u8, offset: i16) -> &mut Self {
        self.op(0x61, to, r::DATA, offset, 0)
    }

    fn store_u8(&mut self, offset: i16, from: u8) -> &mut Self {
        self.op(0x73, r::DATA, from, offset, 0)
    }

    fn store_u16(&mut self, offset: i16, from: u8) -> &mut Self {
        self.op(0x6b, r::DATA, from, offset, 0)
    }

    /// Leaves unless the register holds the number.
    fn leave_unless(&mut self, register: u8, number: i32) -> &mut Self {
        self.leaving.push(self.words.len());
        self.op(0x55, register, 0, 0, number)
    }

    /// Loads the packet's bounds and leaves with `answer` if it is shorter than [`at::END`].
    fn packet(&mut self, answer: i32) -> &mut Self {
        self.set(r::RETURN, answer)
            .op(0x61, r::DATA, r::CTX, 0, 0)
            .op(0x61, r::END, r::CTX, 4, 0)
            .copy(r::LIMIT, r::DATA)
            .op(0x07, r::LIMIT, 0, 0, at::END);
        self.leaving.push(self.words.len());
        self.op(0x2d, r::LIMIT, r::END, 0, 0)
    }

    /// Ends the program and gives its bytes.
    fn exit(&mut self) -> Vec<u8> {
        let last = self.words.len();
        self.op(0x95, 0, 0, 0, 0);
        for from in &self.leaving {
            let distance = i16::try_from(last - from - 1).expect("these programs are short");
            self.words[*from][2..4].copy_from_slice(&distance.to_le_bytes());
        }
        self.words.concat()
    }
}

fn answer(action: i32) -> Code {
    let mut code = Code::default();
    code.set(r::RETURN, action);
    code
}

fn parse() -> Code {
    let mut code = Code::default();
    code.packet(XDP_PASS)
        .load_u16(r::A, at::ETHERTYPE)
        .leave_unless(r::A, 0x0008)
        .load_u8(r::A, at::VERSION)
        .leave_unless(r::A, 0x45)
        .load_u8(r::A, at::PROTOCOL)
        .leave_unless(r::A, 6)
        .load_u32(r::A, at::SOURCE)
        .load_u32(r::B, at::DESTINATION)
        .op(0xaf, r::A, r::B, 0, 0)
        .load_u32(r::B, at::PORTS)
        .op(0xaf, r::A, r::B, 0, 0)
        // Something must depend on what was read.
        .leave_unless(r::A, 0x1234_5678)
        .set(r::RETURN, XDP_DROP);
    code
}

/// Counts in the source's last two bytes, and with `is_wide` carries into the one before.
fn vary(is_wide: bool) -> Code {
    let low = at::SOURCE + 2;
    let high = at::SOURCE + 1;
    let mut code = Code::default();
    code.copy(r::SAVED, r::CTX)
        .packet(0)
        .load_u16(r::A, low)
        .op(0x07, r::A, 0, 0, 1)
        .op(0x57, r::A, 0, 0, 0xffff)
        .store_u16(low, r::A)
        .copy(r::B, r::A)
        .op(0xa7, r::B, 0, 0, 0xffff)
        .store_u16(at::IDENTIFICATION, r::B);
    if is_wide {
        // Over the carry's six instructions unless the low half is 0 again.
        code.op(0x55, r::A, 0, 6, 0)
            .load_u8(r::A, high)
            .op(0x07, r::A, 0, 0, 1)
            .op(0x57, r::A, 0, 0, 0xff)
            .store_u8(high, r::A)
            .op(0xa7, r::A, 0, 0, 0xff)
            .store_u8(at::TOS, r::A);
    }
    code.copy(r::CTX, r::SAVED);
    code.map = Some(code.words.len());
    code.op(0x18, 2, 0, 0, 0)
        .op(0, 0, 0, 0, 0)
        .set(3, 0)
        .op(0x85, 0, 0, 0, TAIL_CALL)
        // Only reached when there is nothing to go on with: XDP_ABORTED, which no row expects.
        .set(r::RETURN, 0);
    code
}

fn assemble() -> Result<Vec<u8>> {
    let mut elf = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let license = elf.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    elf.append_section_data(license, b"Dual MIT/GPL\0", 1);

    // struct bpf_map_def: type, key, value, entries, flags.
    let maps = elf.add_section(Vec::new(), b"maps".to_vec(), SectionKind::Data);
    let definition: Vec<u8> = [PROG_ARRAY, 4, 4, 1, 0]
        .into_iter()
        .flat_map(u32::to_le_bytes)
        .collect();
    elf.append_section_data(maps, &definition, 4);
    let next = symbol(&mut elf, NEXT, SymbolKind::Data, maps, 0, definition.len());

    let programs = [
        (PASS, answer(XDP_PASS)),
        (DROP, answer(XDP_DROP)),
        (PARSE, parse()),
        (SOURCES_64K, vary(false)),
        (SOURCES_16M, vary(true)),
    ];
    // Fragments allowed, as in the object: a tail call goes between programs of one kind only.
    let text = elf.add_section(Vec::new(), b"xdp.frags".to_vec(), SectionKind::Text);
    for (name, mut code) in programs {
        let bytes = code.exit();
        let start = elf.append_section_data(text, &bytes, 8);
        symbol(&mut elf, name, SymbolKind::Text, text, start, bytes.len());
        if let Some(word) = code.map {
            elf.add_relocation(
                text,
                Relocation {
                    offset: start + 8 * word as u64,
                    symbol: next,
                    addend: 0,
                    flags: object::RelocationFlags::Elf {
                        r_type: R_BPF_64_64,
                    },
                },
            )?;
        }
    }
    Ok(elf.write()?)
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
