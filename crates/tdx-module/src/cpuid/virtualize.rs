//! Computes the CPUID values of a TD from its parameters (TDH.MNG.INIT).

use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{Attributes, ConfigFlags, TdParams};

use super::xfam::{self, WHOLE_LEAVES};
use super::{CONFIGURABLE, ENTRIES, NUM_CPUID_VALUES, Value, family, topology};
use crate::platform::Platform;

/// Least physical address width that a TD may be shown (MIN_VIRT_MAXPA).
pub(crate) const MIN_VIRT_MAXPA: u32 = 36;

const EAX: usize = 0;
const EBX: usize = 1;
const ECX: usize = 2;

/// IA32_ARCH_CAPABILITIES, and its bit that says IA32_TSX_CTRL exists.
const ARCH_CAPABILITIES_MSR: u32 = 0x10a;
const ARCH_CAPABILITIES_TSX_CTRL: u64 = 1 << 7;

/// What [`virtualize`] finds.
#[derive(Clone, Debug)]
pub(crate) struct Configured {
    pub(crate) values: Box<[Value; NUM_CPUID_VALUES]>,
    /// Width of a physical address that the TD is shown.
    pub(crate) virt_maxpa: u32,
    /// Whether the TD has transactional memory.
    pub(crate) tsx: bool,
}

/// A refusal: the status, and RCX (leaf and subleaf, or zero).
pub(crate) type Refused = (TdxStatus, u64);

/// The values of a TD that asks for `params`, whose ATTRIBUTES and XFAM are valid.
pub(crate) fn virtualize(
    platform: &Platform,
    native: &[Value; NUM_CPUID_VALUES],
    params: &TdParams,
) -> Result<Configured, Refused> {
    let mut td = Features {
        platform,
        params,
        monitor: false,
        perfmon_ext: false,
        la57: false,
        tsx: false,
        virt_maxpa: 0,
    };
    let mut values = Box::new([[0; 4]; NUM_CPUID_VALUES]);
    for (i, entry) in ENTRIES.iter().enumerate().filter(|(_, e)| e.is_used()) {
        let mut value = native[i];
        if let Some(config) = entry.config {
            value = configured(config, value, params)?;
        }
        td.adjust(entry.leaf, entry.subleaf.unwrap_or(0), &mut value)
            .map_err(|(status, names_leaf)| {
                let subleaf = u64::from(entry.subleaf.unwrap_or(u32::MAX));
                let rcx = u64::from(entry.leaf) | subleaf << 32;
                (status, if names_leaf { rcx } else { 0 })
            })?;
        values[i] = value;
    }
    topology::check_and_derive(&mut values, native).map_err(|status| (status, 0))?;
    Ok(Configured {
        values,
        virt_maxpa: td.virt_maxpa,
        tsx: td.tsx,
    })
}

/// Applies what the host configured. `value` has its fixed bits already.
fn configured(index: usize, mut value: Value, params: &TdParams) -> Result<Value, Refused> {
    let config = &CONFIGURABLE[index];
    let asked = &params.cpuid_config[index];
    let asked = [asked.eax, asked.ebx, asked.ecx, asked.edx];
    for r in 0..4 {
        let (direct, allow) = (config.direct[r], config.allow[r]);
        if asked[r] & !(direct | allow) != 0 {
            return Err((invalid_config(), config.leaf_subleaf()));
        }
        value[r] = value[r] & !direct | asked[r] & direct;
        value[r] &= asked[r] | !allow;
    }
    Ok(value)
}

fn invalid_config() -> TdxStatus {
    TdxStatus::OPERAND_INVALID.with(OperandId::CPUID_CONFIG)
}

/// What the leaves say about the TD while they are gone through, and what they depend on.
struct Features<'a> {
    platform: &'a Platform,
    params: &'a TdParams,
    monitor: bool,
    perfmon_ext: bool,
    la57: bool,
    tsx: bool,
    virt_maxpa: u32,
}

impl Features<'_> {
    fn has(&self, attribute: Attributes) -> bool {
        self.params.attributes & attribute.bits() != 0
    }

    /// Applies what a leaf owes to ATTRIBUTES, XFAM and other leaves. On a refusal, whether RCX
    /// names the leaf.
    fn adjust(
        &mut self,
        leaf: u32,
        subleaf: u32,
        value: &mut Value,
    ) -> Result<(), (TdxStatus, bool)> {
        let xfam = self.params.xfam;
        match (leaf, subleaf) {
            (0x1, _) => {
                self.set_family(value)?;
                xfam::apply(value, xfam, xfam::LEAF_1);
                self.monitor = value[ECX] >> 3 & 1 != 0;
            }
            (0x5, _) if !self.monitor => *value = [0; 4],
            (0x7, 0) => {
                xfam::apply(value, xfam, xfam::LEAF_7_0);
                self.set_tsx(value)?;
                let pks = u32::from(self.has(Attributes::PKS));
                value[ECX] = value[ECX] & !(1 << 31 | 1 << 23) | pks << 31;
                self.la57 = value[ECX] >> 16 & 1 != 0;
            }
            (0x7, 1) => {
                xfam::apply(value, xfam, xfam::LEAF_7_1);
                self.perfmon_ext = value[EAX] >> 8 & 1 != 0;
                let lass = u32::from(self.has(Attributes::LASS));
                value[EAX] = value[EAX] & !(1 << 6) | lass << 6;
            }
            (0xa, _) if !self.has(Attributes::PERFMON) => *value = [0; 4],
            (0xd, 0) => {
                xfam::apply(value, xfam, xfam::LEAF_D_0);
                value[ECX] = self.platform.xsave_size(xfam);
            }
            (0xd, 1) => {
                xfam::apply(value, xfam, xfam::LEAF_D_1);
                if xfam & self.platform.xfd_faulting() == 0 {
                    value[EAX] &= !(1 << 4);
                }
            }
            (0xd, component) if xfam >> component & 1 == 0 => *value = [0; 4],
            (0x15, _) => value[EBX] = self.params.tsc_frequency.into(),
            (0x19, _) => *value = [0; 4],
            (0x1a, _) if self.has(Attributes::MIGRATABLE) => *value = [0; 4],
            (0x23, _) if !self.has(Attributes::PERFMON) || !self.perfmon_ext => *value = [0; 4],
            (0x8000_0008, _) => self.set_widths(value)?,
            _ => {}
        }
        let feature = WHOLE_LEAVES.iter().find(|(whole, _)| *whole == leaf);
        if feature.is_some_and(|(_, bits)| xfam & bits != *bits) {
            *value = [0; 4];
        }
        Ok(())
    }

    /// Family, model and stepping: zero means those of the processor. Only a migratable TD may have
    /// others.
    fn set_family(&self, value: &mut Value) -> Result<(), (TdxStatus, bool)> {
        let native = self.platform.cpuid(1, 0)[EAX];
        if value[EAX] == 0 {
            value[EAX] = native;
        }
        let allowed = if self.has(Attributes::MIGRATABLE) {
            family::is_allowed(value[EAX], native)
        } else {
            value[EAX] == native
        };
        if allowed {
            Ok(())
        } else {
            Err((invalid_config(), true))
        }
    }

    /// Hardware lock elision and restricted transactions come together, and with IA32_TSX_CTRL.
    fn set_tsx(&mut self, value: &Value) -> Result<(), (TdxStatus, bool)> {
        let (hle, rtm) = (value[EBX] >> 4 & 1 != 0, value[EBX] >> 11 & 1 != 0);
        if hle != rtm {
            return Err((invalid_config(), true));
        }
        if hle && self.platform.ia32_arch_capabilities & ARCH_CAPABILITIES_TSX_CTRL == 0 {
            let status = TdxStatus::INCORRECT_MSR_VALUE;
            return Err((status.with_details(ARCH_CAPABILITIES_MSR), false));
        }
        self.tsx = hle;
        Ok(())
    }

    /// Widths of linear and physical addresses.
    fn set_widths(&mut self, value: &mut Value) -> Result<(), (TdxStatus, bool)> {
        let flags = ConfigFlags::from_bits_retain(self.params.config_flags);
        let wide = flags.contains(ConfigFlags::GPAW);
        let gpa_width = if wide { 52 } else { 48 };
        let asked = value[EAX] & 0xff;
        let native = self.platform.maxpa;
        self.virt_maxpa = match (flags.contains(ConfigFlags::MAXPA_VIRT), asked) {
            (false, _) => native,
            (true, 0) => native.min(gpa_width),
            (true, asked) => {
                if asked > gpa_width || asked > native || asked < MIN_VIRT_MAXPA {
                    return Err((invalid_config(), false));
                }
                asked
            }
        };
        let linear = if self.la57 { 57 } else { 48 };
        value[EAX] = value[EAX] & !0xffff | linear << 8 | self.virt_maxpa;
        Ok(())
    }
}
