//! The member table as a process sees it: `MEMBERS` and `BUSY` mapped, every field an atomic.
//!
//! Control makes it from kernel maps or memory files and passes the two descriptors to the proxy,
//! which maps the same memory. State bits are changed by their owner with fetch-or and fetch-and.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{BorrowedFd, OwnedFd},
    sync::atomic::{
        AtomicU64,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use lb_common::{
    abi::{BUSY_COLUMNS, MAX_MEMBERS},
    addr::Address,
    member::{MemberId, MemberState},
};

use super::sys::{Mapping, MemberCell, fd_of, memory_file};

/// `MEMBERS` and `BUSY`, mapped.
pub struct MemberTable {
    members: Mapping<MemberCell>,
    busy: Mapping<AtomicU64>,
}

/// Bytes of `BUSY`.
const BUSY_CELLS: usize = (BUSY_COLUMNS * MAX_MEMBERS) as usize;

impl MemberTable {
    /// Maps both from descriptors of the maps, or of the memory files that stand in for them.
    pub fn map(members: BorrowedFd<'_>, busy: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self {
            members: Mapping::of(members, MAX_MEMBERS as usize)?,
            busy: Mapping::of(busy, BUSY_CELLS)?,
        })
    }

    /// The same layout in anonymous memory; the descriptors are for the proxy process.
    pub fn anonymous() -> io::Result<(Self, OwnedFd, OwnedFd)> {
        let members = memory_file(
            "sluice-members",
            u64::from(MAX_MEMBERS) * size_of::<MemberCell>() as u64,
        )?;
        let busy = memory_file("sluice-busy", BUSY_CELLS as u64 * 8)?;
        Ok((Self::map(fd_of(&members), fd_of(&busy))?, members, busy))
    }

    /// The slot of a member; `None` for id 0 and beyond the table.
    pub fn cell(&self, id: MemberId) -> Option<&MemberCell> {
        if id.0 == 0 {
            None
        } else {
            self.members.cell(id.0 as usize)
        }
    }

    /// Requests in flight of one proxy process (`column`) on a member.
    pub fn busy(&self, column: u32, id: MemberId) -> Option<&AtomicU64> {
        if id.0 == 0 || id.0 >= MAX_MEMBERS || column >= BUSY_COLUMNS {
            return None;
        }
        self.busy.cell((column * MAX_MEMBERS + id.0) as usize)
    }

    /// Requests in flight on a member, all proxy processes together.
    pub fn busy_sum(&self, id: MemberId) -> u64 {
        (0..BUSY_COLUMNS)
            .filter_map(|column| self.busy(column, id))
            .map(|cell| cell.load(Relaxed))
            .sum()
    }

    /// Empties the column of a process that is gone, or is about to start.
    pub fn clear_busy(&self, column: u32) {
        for id in 1..MAX_MEMBERS {
            if let Some(cell) = self.busy(column, MemberId(id)) {
                cell.store(0, Relaxed);
            }
        }
    }
}

impl MemberCell {
    /// State bits now.
    pub fn state(&self) -> MemberState {
        MemberState(self.state.load(Acquire))
    }

    /// Sets `bits`; returns whether any of them was clear.
    pub fn set_state(&self, bits: u64) -> bool {
        self.state.fetch_or(bits, Release) & bits != bits
    }

    /// Clears `bits`; returns whether any of them was set.
    pub fn clear_state(&self, bits: u64) -> bool {
        self.state.fetch_and(!bits, Release) & bits != 0
    }

    /// 128-bit identity; zero: the slot is free.
    pub fn identity(&self) -> [u64; 2] {
        [
            self.identity[0].load(Acquire),
            self.identity[1].load(Relaxed),
        ]
    }

    /// Where to connect to.
    pub fn address(&self) -> SocketAddr {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.address[0].load(Relaxed).to_ne_bytes());
        bytes[8..].copy_from_slice(&self.address[1].load(Relaxed).to_ne_bytes());
        let port = u16::from_be(self.port.load(Relaxed));
        SocketAddr::new(Address(bytes).into(), port)
    }

    /// Writes address and port. Not atomic as a whole: for a slot that nothing uses yet, or whose
    /// readers may see either half for one connection attempt.
    pub fn set_address(&self, ip: IpAddr, port: u16) {
        let bytes = Address::from(ip).0;
        let (high, low) = bytes.split_at(8);
        let word =
            |half: &[u8]| u64::from_ne_bytes(half.try_into().expect("half of 16 bytes is 8 bytes"));
        self.address[0].store(word(high), Relaxed);
        self.address[1].store(word(low), Relaxed);
        self.port.store(port.to_be(), Relaxed);
    }

    /// `lbset`.
    pub fn lbset(&self) -> u8 {
        self.lbset_pad.load(Relaxed).to_ne_bytes()[0]
    }

    /// Writes `lbset`.
    pub fn set_lbset(&self, lbset: u8) {
        self.lbset_pad
            .store(u16::from_ne_bytes([lbset, 0]), Relaxed);
    }
}

/// Kernel monotonic clock, ns: the time of every map.
pub fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec.unsigned_abs() * 1_000_000_000 + now.tv_nsec.unsigned_abs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_of_one_table_see_each_other() {
        let (a, members, busy) = MemberTable::anonymous().expect("memfd");
        let b = MemberTable::map(fd_of(&members), fd_of(&busy)).expect("second mapping");
        let id = MemberId(7);
        a.cell(id)
            .expect("slot")
            .set_address("192.0.2.1".parse().expect("ip"), 8080);
        assert!(a.cell(id).expect("slot").set_state(MemberState::DRAIN));
        assert!(!a.cell(id).expect("slot").set_state(MemberState::DRAIN));
        let seen = b.cell(id).expect("slot");
        assert_eq!(seen.address(), "192.0.2.1:8080".parse().expect("address"));
        assert!(seen.state().has(MemberState::DRAIN) && seen.state().is_usable());
        b.busy(3, id).expect("cell").store(2, Relaxed);
        assert_eq!(a.busy_sum(id), 2);
        a.clear_busy(3);
        assert_eq!(b.busy_sum(id), 0);
    }

    #[test]
    fn id_zero_is_absent() {
        let (table, _members, _busy) = MemberTable::anonymous().expect("memfd");
        assert!(table.cell(MemberId(0)).is_none());
        assert!(table.busy(0, MemberId(0)).is_none());
        assert!(table.cell(MemberId(MAX_MEMBERS)).is_none());
    }
}
