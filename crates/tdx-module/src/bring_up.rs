//! From loaded to ready in one step, for tests, examples and benchmarks.

use seamlock_tdx_abi::addr::{Hpa, PAGE_SIZE_1G, align_down};
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::regs::Regs;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::tdmr::{TDMR_INFO_ALIGN, TdmrInfo, pamt_bytes};
use zerocopy::IntoBytes;

use crate::{Module, Platform};

const PAGE: u64 = 4096;

impl Module {
    /// A module with its machine, brought up as a host does it: SYS.INIT to TDMR.INIT, with one TDMR
    /// from 1 GiB to the last whole GiB of the first convertible memory range, whose PAMT lies where
    /// that range begins, followed by the list of TDMRs. The module's own HKID is the first private one.
    ///
    /// # Errors
    /// The leaf that failed, and its status.
    pub fn ready(platform: Platform) -> Result<Module, (Leaf, TdxStatus)> {
        let m = Module::new(platform);
        let call = |lp, regs: Regs| {
            let (leaf, mut regs) = (regs.leaf(), regs);
            let _ = m.seamcall(lp, &mut regs);
            match regs.status() {
                TdxStatus::SUCCESS => Ok(regs),
                status => Err((leaf, status)),
            }
        };
        call(0, Regs::call(Leaf::SYS_INIT))?;
        for lp in 0..m.platform.lps {
            call(lp, Regs::call(Leaf::SYS_LP_INIT))?;
        }
        let (tdmr, list) = m.one_tdmr();
        call(
            0,
            Regs {
                rcx: list,
                rdx: 1,
                r8: m.platform.private_hkid_first.into(),
                ..Regs::call(Leaf::SYS_CONFIG)
            },
        )?;
        for package in 0..m.platform.packages {
            let lps = 0..m.platform.lps;
            let lp = lps
                .into_iter()
                .find(|lp| m.platform.package_of(*lp) == package);
            call(lp.unwrap_or(0), Regs::call(Leaf::SYS_KEY_CONFIG))?;
        }
        let mut next = tdmr.base;
        while next < tdmr.base + tdmr.size {
            let regs = Regs {
                rcx: tdmr.base,
                ..Regs::call(Leaf::SYS_TDMR_INIT)
            };
            next = call(0, regs)?.rdx;
        }
        Ok(m)
    }

    /// Lays out the TDMR and writes the list that names it. Returns it with the list's address.
    fn one_tdmr(&self) -> (TdmrInfo, u64) {
        let (from, to) = self.platform.cmrs.first().map_or((0, 0), |cmr| {
            (cmr.base, align_down(cmr.end(), PAGE_SIZE_1G))
        });
        let size = to.saturating_sub(PAGE_SIZE_1G);
        let [g1, m2, k4] = pamt_bytes(size).map(|bytes| bytes.next_multiple_of(PAGE));
        let tdmr = TdmrInfo {
            base: PAGE_SIZE_1G,
            size,
            pamt_4k_base: from,
            pamt_4k_size: k4,
            pamt_2m_base: from + k4,
            pamt_2m_size: m2,
            pamt_1g_base: from + k4 + m2,
            pamt_1g_size: g1,
            ..TdmrInfo::default()
        };
        let list = tdmr.pamt_1g_base + g1;
        let info = list + TDMR_INFO_ALIGN;
        // Where the machine has no memory nothing is written, and SYS.CONFIG refuses.
        let _ = self.memory.write(Hpa(list), info.as_bytes());
        let _ = self.memory.write(Hpa(info), tdmr.as_bytes());
        (tdmr, list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_up_with_all_memory_above_the_first_gigabyte() {
        let m = Module::ready(Platform::sapphire_rapids(4 << 30, 2)).unwrap();
        assert!(m.chain(Hpa(1 << 30)).is_some());
        assert!(m.chain(Hpa((3 << 30) - 4096)).is_some());
        assert!(m.chain(Hpa(3 << 30)).is_none());
        assert_eq!(m.audit(), Ok(crate::audit::Accounting::default()));
    }

    #[test]
    fn a_machine_without_memory_for_a_tdmr_is_refused() {
        let refused = Module::ready(Platform::sapphire_rapids(1 << 30, 1)).err();
        assert_eq!(refused.map(|(leaf, _)| leaf), Some(Leaf::SYS_CONFIG));
    }
}
