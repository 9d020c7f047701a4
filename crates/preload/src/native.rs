//! The processor that the VMM sees without asking us.
//!
//! CPUID is an instruction, so `-cpu host` of QEMU describes the processor that it really runs on, and
//! passes its family, model and stepping to KVM_TDX_INIT_VM. On a TDX host that is the machine's own;
//! here it may be anything, and a TDX module refuses a family that it does not know. So what the VMM read
//! off the real processor is read by KVM as the machine's. Nothing of the VMM's is changed, and a family
//! that the VMM chose itself is not touched.

use std::arch::x86_64::__cpuid;

use seamlock_kvm::Host;
use seamlock_kvm::task::{Fault, UserMemory};
use seamlock_tdx_abi::kvm::{KVM_MAX_CPUID_ENTRIES, KvmCpuidEntry2, KvmTdxInitVm};
use zerocopy::{FromZeros, IntoBytes};

use crate::memory::Own;

/// CPUID leaf of family, model and stepping, in EAX.
const LEAF_1: u32 = 1;

/// The VMM's memory, where 32-bit words at some addresses are read as others.
#[derive(Debug, Default)]
pub struct Seen {
    words: Vec<(u64, [u8; 4])>,
}

impl Seen {
    /// As KVM_TDX_INIT_VM is to read it, whose structure is at `init`. What can't be read is left to KVM.
    pub fn by_init_vm(init: u64, host: &Host) -> Seen {
        let native = __cpuid(LEAF_1).eax;
        let machine = host.module().platform().cpuid(LEAF_1, 0)[0];
        let mut seen = Seen::default();
        let mut header = KvmTdxInitVm::new_zeroed();
        if native == machine || Own.read(init, header.as_mut_bytes()).is_err() {
            return seen;
        }
        let entries = init.wrapping_add(size_of::<KvmTdxInitVm>() as u64);
        for i in 0..header.cpuid.nent.min(KVM_MAX_CPUID_ENTRIES) {
            let at = entries.wrapping_add(u64::from(i) * size_of::<KvmCpuidEntry2>() as u64);
            let mut entry = KvmCpuidEntry2::new_zeroed();
            if Own.read(at, entry.as_mut_bytes()).is_err() {
                break;
            }
            if entry.function == LEAF_1 && entry.eax == native {
                let eax = std::mem::offset_of!(KvmCpuidEntry2, eax) as u64;
                seen.words
                    .push((at.wrapping_add(eax), machine.to_le_bytes()));
            }
        }
        seen
    }
}

impl UserMemory for Seen {
    fn read(&self, addr: u64, out: &mut [u8]) -> Result<(), Fault> {
        Own.read(addr, out)?;
        for (at, word) in &self.words {
            for (i, byte) in word.iter().enumerate() {
                let offset = at.wrapping_add(i as u64).wrapping_sub(addr);
                if let Some(place) = usize::try_from(offset).ok().and_then(|o| out.get_mut(o)) {
                    *place = *byte;
                }
            }
        }
        Ok(())
    }

    fn write(&self, addr: u64, bytes: &[u8]) -> Result<(), Fault> {
        Own.write(addr, bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_replaced_wherever_a_read_touches_it() {
        let bytes: Vec<u8> = (0..16).collect();
        let base = bytes.as_ptr() as u64;
        let seen = Seen {
            words: vec![(base + 6, [0xa, 0xb, 0xc, 0xd])],
        };
        let read = |from: u64, len| {
            let mut out = vec![0; len];
            seen.read(base + from, &mut out).expect("mapped");
            out
        };
        assert_eq!(read(0, 6), [0, 1, 2, 3, 4, 5]);
        assert_eq!(read(4, 4), [4, 5, 0xa, 0xb]);
        assert_eq!(read(8, 4), [0xc, 0xd, 10, 11]);
        assert_eq!(read(5, 6), [5, 0xa, 0xb, 0xc, 0xd, 10]);
        assert_eq!(read(10, 2), [10, 11]);
    }
}
