//! Guest physical addresses that a guest leaf names: translated as the processor would.
//!
//! A private address goes through the secure EPT, a shared one through the EPT in host memory at
//! the vCPU's shared EPTP. Source: TDX module 1.5, `helpers.c` and `sept_manager.c`.

use seamlock_tdx_abi::addr::{Gpa, Hpa, PAGE_SIZE};
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::sept::SeptEntry;

use crate::call::invalid;
use crate::guest::VeInfo;
use crate::sept::{Ordered, Walk, leaf_to_hpa};
use crate::tables::{SeptTrait, sept_is};
use crate::td::Td;
use crate::td_exit::{AsyncExit, EPT_MISCONFIGURATION, EPT_VIOLATION, Inside};
use crate::tdg::Stop;

/// VMCS encoding of the shared EPT pointer.
const SHARED_EPTP: u32 = 0x203c;
/// Extended exit qualification: the page is pending (6).
pub(crate) const EEQ_PENDING: u64 = 6;
/// TD_CTLS: an access to a pending page exits instead of raising #VE.
const PENDING_VE_DISABLE: u64 = 1;
/// Bytes of a TDCALL instruction.
const TDCALL_LENGTH: u32 = 4;
/// Highest level whose EPT entry may map a page: 1 GiB.
const TOP_LEAF_LEVEL: u8 = 2;

/// What a guest leaf does with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Reads; a shared address is an error.
    ReadPrivate,
    /// Writes; a shared address is an error.
    WritePrivate,
    /// Reads.
    Read,
    /// Writes, and reads.
    Write,
}

impl Reach {
    /// R, W and X as in an EPT entry.
    const fn rights(self) -> u64 {
        match self {
            Reach::ReadPrivate | Reach::Read => 1,
            Reach::Write | Reach::WritePrivate => 3,
        }
    }
}

impl Td {
    /// Whether an access to a pending page exits (true) or raises #VE.
    pub(crate) fn pending_exits(&self) -> bool {
        self.config.with(|config| config.td_ctls) & PENDING_VE_DISABLE != 0
    }

    /// The lowest bit above the TD's guest physical addresses.
    pub(crate) fn gpa_width(&self) -> u32 {
        if self.gpaw_52.load() { 52 } else { 48 }
    }
}

impl Inside<'_> {
    /// The page and byte that `gpa` stands for. What the access does not cross a page boundary.
    pub(crate) fn translate(
        &self,
        gpa: Gpa,
        reach: Reach,
        operand: OperandId,
    ) -> Result<Hpa, Stop> {
        if gpa.0 >> self.td.gpa_width() != 0 {
            return Err(invalid(operand).into());
        }
        if self.td.is_private_gpa(gpa) {
            self.private_pa(gpa, reach)
        } else if matches!(reach, Reach::ReadPrivate | Reach::WritePrivate) {
            Err(invalid(operand).into())
        } else {
            self.shared_pa(gpa, reach)
        }
    }

    fn private_pa(&self, gpa: Gpa, reach: Reach) -> Result<Hpa, Stop> {
        let walk = self.m.walk(self.td, gpa, 0, Ordered::No);
        let entry = walk.map_or(SeptEntry::FREE, |walk| walk.entry);
        let rights = entry.intersection(SeptEntry::RWX).bits();
        if let Some(pa) = walk.and_then(|walk| allowed(&walk, gpa, reach)) {
            return Ok(pa);
        }
        let qual = reach.rights() & !rights | rights << 3;
        if !sept_is(entry.state(), SeptTrait::Acceptable) {
            return Err(Stop::Exit(AsyncExit::ept_violation(gpa, qual, 0)));
        }
        if self.td.pending_exits() {
            return Err(Stop::Exit(AsyncExit::ept_violation(gpa, qual, EEQ_PENDING)));
        }
        Err(self.ve_at(gpa, qual))
    }

    /// The page and byte of a private address, if the secure EPT allows it. Nothing comes of a refusal.
    pub(crate) fn allowed(&self, gpa: Gpa, reach: Reach) -> Option<Hpa> {
        let private = self.td.is_private_gpa(gpa);
        let walk = private.then(|| self.m.walk(self.td, gpa, 0, Ordered::No))??;
        allowed(&walk, gpa, reach)
    }

    fn shared_pa(&self, gpa: Gpa, reach: Reach) -> Result<Hpa, Stop> {
        let eptp = self
            .vp
            .guest
            .with(|guest| guest.vmcs.get(&SHARED_EPTP).copied());
        let mut table = eptp.map(|eptp| eptp & SeptEntry::HPA_MASK);
        let mut rights = 7;
        for level in (0..=self.td.top_level()).rev() {
            let index = gpa.0 >> (12 + 9 * level) & 511;
            let entry = table.map_or(0, |table| {
                let plain = self.m.platform.without_hkid(table);
                self.m.memory.read_u64(Hpa(plain.0 + index * 8))
            });
            rights &= entry;
            if is_misconfigured(entry, level) {
                return Err(misconfiguration(gpa));
            }
            let present = entry & 7 != 0;
            let leaf = level == 0 || (present && entry & SeptEntry::LEAF.bits() != 0);
            if reach.rights() & !entry != 0 {
                let qual = reach.rights() & !rights | rights << 3;
                let convertible = (!present || leaf) && entry & SeptEntry::SUPPRESS_VE.bits() == 0;
                return Err(if convertible {
                    self.ve_at(gpa, qual)
                } else {
                    Stop::Exit(AsyncExit::ept_violation(gpa, qual, 0))
                });
            }
            if leaf {
                let page = leaf_to_hpa(SeptEntry::from_bits_retain(entry), gpa, level);
                let whole = page.0 & !(PAGE_SIZE - 1);
                return match self.m.check_shared_hpa(whole, PAGE_SIZE, OperandId::RCX) {
                    Ok(plain) => Ok(Hpa(plain.0 | page.0 & (PAGE_SIZE - 1))),
                    Err(_) => Err(misconfiguration(gpa)),
                };
            }
            table = Some(entry & SeptEntry::HPA_MASK);
        }
        Err(misconfiguration(gpa))
    }

    /// #VE because of an access of a TDCALL to memory.
    fn ve_at(&self, gpa: Gpa, qual: u64) -> Stop {
        let info = VeInfo {
            reason: EPT_VIOLATION,
            qual,
            gpa: gpa.0,
            instruction_length: TDCALL_LENGTH,
            ..VeInfo::default()
        };
        Stop::Inject(self.vp.guest.with(|guest| guest.raise_ve(info)))
    }

    /// Reads guest memory that [`translate`](Inside::translate) found. What lies outside of the
    /// machine's memory reads as ones.
    pub(crate) fn read(&self, pa: Hpa, bytes: &mut [u8]) {
        if self.m.memory.read(pa, bytes).is_err() {
            bytes.fill(0xff);
        }
    }

    /// Writes guest memory that [`translate`](Inside::translate) found; outside of the machine's
    /// memory nothing happens.
    pub(crate) fn write(&self, pa: Hpa, bytes: &[u8]) {
        let _ = self.m.memory.write(pa, bytes);
    }
}

fn allowed(walk: &Walk, gpa: Gpa, reach: Reach) -> Option<Hpa> {
    let rights = walk.entry.intersection(SeptEntry::RWX).bits();
    let allowed = reach.rights() & !rights == 0 && walk.entry.contains(SeptEntry::LEAF);
    allowed.then(|| leaf_to_hpa(walk.entry, gpa, walk.level))
}

fn misconfiguration(gpa: Gpa) -> Stop {
    Stop::Exit(AsyncExit {
        gpa: gpa.0 & !(PAGE_SIZE - 1),
        ..AsyncExit::plain(EPT_MISCONFIGURATION, 0)
    })
}

/// An entry of the host's EPT that no processor takes: writable and not readable, a page above 1
/// GiB, or a memory type that does not exist.
fn is_misconfigured(entry: u64, level: u8) -> bool {
    if entry & 3 == 2 {
        return true;
    }
    if entry & 7 == 0 {
        return false;
    }
    let leaf = level == 0 || entry & SeptEntry::LEAF.bits() != 0;
    let memory_type = entry >> 3 & 7;
    if leaf {
        level > TOP_LEAF_LEVEL || matches!(memory_type, 2 | 3 | 7)
    } else {
        memory_type != 0
    }
}
