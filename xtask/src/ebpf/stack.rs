//! The stack of each program as Linux 6.1 reckons it, from the object alone: every frame of a chain of
//! calls rounded up to 32 bytes, where newer kernels round to 16, and 512 bytes for all of them. The
//! kernel that builds the object may take what the oldest one refuses ("combined stack size of N calls
//! is M. Too large").

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SymbolKind,
    read::elf::ElfFile64,
};

/// `MAX_BPF_STACK`.
const STACK: u32 = 512;
/// What `check_max_stack_depth` of Linux 6.1 rounds a frame up to; an empty one counts, too.
const GRAIN: u32 = 32;
/// Bytes of an instruction.
const INSN: u64 = 8;
/// The frame's end.
const R10: u8 = 10;

/// One function.
#[derive(Debug, Default)]
struct Function {
    /// Bytes below R10 that it uses.
    depth: u32,
    calls: BTreeSet<String>,
}

/// A chain of calls and what it takes.
#[derive(Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Chain {
    /// Bytes.
    pub(super) bytes: u32,
    /// Outermost first.
    pub(super) names: Vec<String>,
}

/// The deepest chain of all programs. Fails if it does not fit, naming it.
pub(super) fn check(bytes: &[u8]) -> Result<Chain> {
    let functions = functions(bytes)?;
    let deepest = (functions.keys())
        .map(|name| deepest(name, &functions))
        .max()
        .context("the object has no functions")?;
    ensure!(
        deepest.bytes <= STACK,
        "{} take {} bytes of stack as Linux 6.1 reckons it, and {STACK} are allowed: a frame must \
         become smaller, or a call go",
        deepest.names.join(" -> "),
        deepest.bytes
    );
    Ok(deepest)
}

fn deepest(name: &str, functions: &BTreeMap<String, Function>) -> Chain {
    let Some(function) = functions.get(name) else {
        return Chain {
            bytes: 0,
            names: Vec::new(),
        };
    };
    // The verifier refuses recursion, so this ends.
    let below = (function.calls.iter())
        .map(|callee| deepest(callee, functions))
        .max();
    let (bytes, mut names) = below.map_or((0, Vec::new()), |chain| (chain.bytes, chain.names));
    names.insert(0, name.to_owned());
    Chain {
        bytes: bytes + function.depth.max(1).next_multiple_of(GRAIN),
        names,
    }
}

fn functions(bytes: &[u8]) -> Result<BTreeMap<String, Function>> {
    let elf: ElfFile64<'_> = ElfFile64::parse(bytes)?;
    let mut starts = BTreeMap::new();
    let mut found = Vec::new();
    for symbol in elf.symbols() {
        if let (SymbolKind::Text, Some(section)) = (symbol.kind(), symbol.section_index())
            && symbol.size() > 0
        {
            let name = symbol.name()?.to_owned();
            starts.insert((section.0, symbol.address()), name.clone());
            found.push((name, section, symbol.address(), symbol.size()));
        }
    }
    let mut functions = BTreeMap::new();
    for (name, index, start, size) in found {
        let section = elf.section_by_index(index)?;
        // Calls across sections are relocated, to a function or to somewhere in a section.
        let mut relocated = BTreeMap::new();
        for (at, relocation) in section.relocations() {
            if let RelocationTarget::Symbol(symbol) = relocation.target() {
                relocated.insert(at, elf.symbol_by_index(symbol)?);
            }
        }
        let code = section
            .data_range(start, size)?
            .with_context(|| format!("{name} lies outside its section"))?;
        let called = |at: u64, immediate: i32| {
            let ahead = INSN.cast_signed() * (1 + i64::from(immediate));
            let place = match relocated.get(&at) {
                Some(symbol) if symbol.kind() == SymbolKind::Text => {
                    (symbol.section_index()?.0, symbol.address())
                }
                Some(symbol) => (symbol.section_index()?.0, 0u64.wrapping_add_signed(ahead)),
                None => (index.0, at.wrapping_add_signed(ahead)),
            };
            starts.get(&place)
        };
        functions.insert(name, function(code, start, called));
    }
    Ok(functions)
}

/// Looks at all instructions: stores, loads and addresses below R10, and calls.
fn function<'n>(
    code: &[u8],
    start: u64,
    called: impl Fn(u64, i32) -> Option<&'n String>,
) -> Function {
    let mut function = Function::default();
    let mut below = |offset: i32| {
        let depth = u32::try_from(offset.saturating_neg()).unwrap_or(0);
        function.depth = function.depth.max(depth);
    };
    // The register that holds a copy of R10, by the instruction before.
    let mut copied = None;
    let mut wide = false;
    let mut calls = BTreeSet::new();
    for (at, insn) in (start..).step_by(8).zip(code.chunks_exact(8)) {
        if std::mem::take(&mut wide) {
            // The second half of a load of 64 bits.
            continue;
        }
        let (to, from) = (insn[1] & 0xf, insn[1] >> 4);
        let offset = i32::from(i16::from_le_bytes([insn[2], insn[3]]));
        let immediate = i32::from_le_bytes([insn[4], insn[5], insn[6], insn[7]]);
        let before = copied.take();
        match (insn[0], insn[0] & 7) {
            (0x18, _) => wide = true,
            // BPF_LDX; BPF_ST and BPF_STX.
            (_, 1) if from == R10 => below(offset),
            (_, 2 | 3) if to == R10 => below(offset),
            // A copy of R10, and what is added to it.
            (0xbf, _) if from == R10 => copied = Some(to),
            (0x07, _) if before == Some(to) => below(immediate),
            // BPF_PSEUDO_CALL.
            (0x85, _) if from == 1 => calls.extend(called(at, immediate).cloned()),
            _ => {}
        }
    }
    function.calls = calls;
    function
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insn(code: u8, registers: u8, offset: i16, immediate: i32) -> [u8; 8] {
        let mut bytes = [code, registers, 0, 0, 0, 0, 0, 0];
        bytes[2..4].copy_from_slice(&offset.to_le_bytes());
        bytes[4..].copy_from_slice(&immediate.to_le_bytes());
        bytes
    }

    #[test]
    fn depth_is_of_stores_loads_and_addresses() {
        let nobody = |_, _| None;
        let of = |code: &[[u8; 8]]| function(&code.concat(), 0, nobody).depth;
        // *(u64 *)(r10 - 24) = r1
        assert_eq!(of(&[insn(0x7b, 0x1a, -24, 0)]), 24);
        // r1 = *(u64 *)(r10 - 40)
        assert_eq!(of(&[insn(0x79, 0xa1, -40, 0)]), 40);
        // r2 = r10; r2 += -112
        assert_eq!(
            of(&[insn(0xbf, 0xa2, 0, 0), insn(0x07, 0x02, 0, -112)]),
            112
        );
        // r3 = r2; r3 += -112: no address of the stack.
        assert_eq!(of(&[insn(0xbf, 0x23, 0, 0), insn(0x07, 0x03, 0, -112)]), 0);
        // The second half of a wide load is data, whatever it looks like.
        assert_eq!(of(&[insn(0x18, 1, 0, 0), insn(0x7b, 0x1a, -24, 0)]), 0);
    }

    #[test]
    fn every_frame_of_a_chain_is_rounded_up_and_an_empty_one_counts() {
        let function = |depth, calls: &[&str]| Function {
            depth,
            calls: calls.iter().map(|&name| name.to_owned()).collect(),
        };
        let functions = BTreeMap::from([
            ("program".to_owned(), function(328, &["flat", "deep"])),
            ("flat".to_owned(), function(8, &[])),
            ("deep".to_owned(), function(152, &["memset"])),
            ("memset".to_owned(), function(0, &[])),
        ]);
        let chain = deepest("program", &functions);
        assert_eq!(chain.bytes, 352 + 160 + 32);
        assert_eq!(chain.names, ["program", "deep", "memset"]);
    }

    #[test]
    fn committed_object_fits() {
        let object = lab::workspace_root().join(super::super::recipe::OBJECT);
        let object = std::fs::read(object).expect("the object is committed");
        let chain = check(&object).expect("it fits");
        assert!(chain.names[0].starts_with("sluice_"), "{chain:?}");
    }
}
