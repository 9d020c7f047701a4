//! The values of a TD's fields.
//!
//! Migration, service TDs and a CPU with L2 VMs are not there: their fields hold zero, as they do
//! in a TD that makes no use of them.

use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::ConfigFlags;

use super::next::cpuid_leaf;
use super::{Accessor, CPUID_CLASS, Field, Scope, merge};
use crate::Module;
use crate::cpuid::{ENTRIES, NUM_CPUID_VALUES, lookup};
use crate::measure::Digest;
use crate::td::{
    MAX_TDCS_PAGES, SEPT_ROOT_PAGE, TD_CTLS_ENUM_TOPOLOGY, TD_CTLS_PENDING_VE_DISABLE, Td, TdConfig,
};
use crate::tsc;

/// HP_LOCK_TIMEOUT in microseconds.
const HP_LOCK_TIMEOUT_US: std::ops::RangeInclusive<u64> = 10_000..=100_000_000;

/// Classes of fields.
mod class {
    pub(super) const TDR: u8 = 0;
    pub(super) const KEYS: u8 = 1;
    pub(super) const MANAGEMENT: u8 = 16;
    pub(super) const CONTROLS: u8 = 17;
    pub(super) const EPOCH: u8 = 18;
    pub(super) const MEASUREMENT: u8 = 19;
    pub(super) const MSRS: u8 = 22;
    pub(super) const SERVICE_TD: u8 = 25;
    pub(super) const X2APIC_IDS: u8 = 28;
    pub(super) const MSR_BITMAPS: u8 = 32;
    pub(super) const SEPT_ROOT: u8 = 33;
    pub(super) const L2_SEPT_ROOTS: [u8; 3] = [37, 41, 45];
}

/// Codes of execution controls.
mod control {
    pub(super) const NOTIFY_ENABLES: u32 = 16;
    pub(super) const HP_LOCK_TIMEOUT: u32 = 17;
    pub(super) const VM_CTLS: u32 = 18;
    pub(super) const TD_CTLS: u32 = 23;
}

/// Reads one element.
///
/// # Errors
/// METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_READABLE.
#[inline]
pub(crate) fn read_td(
    m: &Module,
    td: &Td,
    id: FieldId,
    accessor: Accessor,
) -> Result<u64, TdxStatus> {
    let (row, value) = element(m, td, id)?;
    match row.allows(accessor).read {
        0 => Err(TdxStatus::METADATA_FIELD_NOT_READABLE),
        readable => Ok(value & readable),
    }
}

/// Writes the bits of `mask` of one element and returns what was there.
///
/// # Errors
/// METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_READABLE (a CPUID value that faults),
/// METADATA_FIELD_NOT_WRITABLE, METADATA_FIELD_VALUE_NOT_VALID, METADATA_WR_MASK_NOT_VALID.
pub(crate) fn write_td(
    m: &Module,
    td: &Td,
    id: FieldId,
    accessor: Accessor,
    value: u64,
    mask: u64,
) -> Result<u64, TdxStatus> {
    let (row, old) = element(m, td, id)?;
    let rights = row.allows(accessor);
    let new = merge(old, value, mask, rights.write)?;
    store(m, td, row, id, old, new, mask & rights.write)?;
    Ok(old & rights.read)
}

/// The row of an id and its value, whoever may see it.
#[inline]
fn element(m: &Module, td: &Td, id: FieldId) -> Result<(&'static Field, u64), TdxStatus> {
    let scope = Scope::Td {
        l2_vms: td.num_l2_vms.load(),
    };
    let row = scope.find(id);
    let row = row.ok_or(TdxStatus::METADATA_FIELD_ID_INCORRECT)?;
    let value = if id.class() == CPUID_CLASS {
        td.config.with(|config| cpuid_value(config, id))?
    } else {
        value(m, td, row, id)
    };
    Ok((row, value & row.size_mask()))
}

fn cpuid_value(config: &TdConfig, id: FieldId) -> Result<u64, TdxStatus> {
    let incorrect = TdxStatus::METADATA_FIELD_ID_INCORRECT;
    if id.code() >> 17 != 0 {
        return Err(incorrect);
    }
    let (leaf, subleaf) = cpuid_leaf(id);
    let index = lookup(leaf, subleaf).ok_or(incorrect)?;
    if ENTRIES[index].faulting {
        return Err(TdxStatus::METADATA_FIELD_NOT_READABLE);
    }
    let value = config.cpuid.get(index).copied().unwrap_or_default();
    let half = (id.code() & 1) as usize * 2;
    Ok(u64::from(value[half]) | u64::from(value[half + 1]) << 32)
}

fn value(m: &Module, td: &Td, row: &Field, id: FieldId) -> u64 {
    let n = (id.code() - row.id.code()) as usize;
    match (row.id.class(), row.id.code()) {
        (class::TDR, 1) => td.fatal.load().into(),
        (class::TDR, 2) => td.num_tdcx.load().into(),
        (class::TDR, 4) => td.chldcnt.load(),
        (class::TDR, 5) => td.lifecycle().0.into(),
        (class::TDR, 0x10) => tdcx_pa(m, td, n),
        (class::TDR, 0x20) => td.config.with(|config| config.uuid[n]),
        (class::KEYS, 1) => td.hkid().0.into(),
        (class::KEYS, 2) => td.pkg_config.load().into(),
        (class::MANAGEMENT, 1) => td.num_vcpus.peek().into(),
        (class::MANAGEMENT, 2) => td.num_assoc.load().into(),
        (class::MANAGEMENT, 4) => td.op_state().0.into(),
        (class::MANAGEMENT, 5) => td.num_l2_vms.load().into(),
        (class::CONTROLS, code) => execution_control(m, td, code, n),
        (class::EPOCH, 0) => td.td_epoch.peek(),
        (class::EPOCH, 1) => td.refcount[n].peek().into(),
        (class::MEASUREMENT, code) => td.config.with(|config| measurement(config, code, n)),
        (class::MSRS, 0x10a) => td.config.with(|config| config.ia32_arch_capabilities),
        (class::SERVICE_TD, 0) => td.config.with(|config| word(&config.servtd_hash, n)),
        (class::X2APIC_IDS, _) => td
            .config
            .with(|config| config.x2apic_ids.get(n).copied().unwrap_or(0).into()),
        (class::MSR_BITMAPS, _) => page_word(m, td, 2, n),
        (class::SEPT_ROOT, _) => page_word(m, td, SEPT_ROOT_PAGE, n),
        (class, _) => {
            let vm = class::L2_SEPT_ROOTS.iter().position(|c| *c == class);
            vm.map_or(0, |vm| page_word(m, td, 6 + vm, n))
        }
    }
}

/// The address of a TDCS page, with the TD's HKID; zero when there is no such page.
fn tdcx_pa(m: &Module, td: &Td, index: usize) -> u64 {
    if index as u32 >= td.num_tdcx.load().min(MAX_TDCS_PAGES) {
        return 0;
    }
    m.platform.with_hkid(td.tdcx(index), td.hkid())
}

fn page_word(m: &Module, td: &Td, page: usize, n: usize) -> u64 {
    m.memory.read_u64(Hpa(td.tdcx(page).0 + 8 * n as u64))
}

fn execution_control(m: &Module, td: &Td, code: u32, n: usize) -> u64 {
    match code {
        0 => td.attributes.load(),
        1 => td.xfam.load(),
        2 => td.max_vcpus.load().into(),
        3 => td.gpaw_52.load().into(),
        14 => NUM_CPUID_VALUES as u64,
        22 => td.config_flags.load(),
        24 => td.virt_maxpa.load().into(),
        0x80 => ENTRIES
            .get(n)
            .is_some_and(|e| e.is_used() && !e.faulting)
            .into(),
        _ => td
            .config
            .with(|config| configured_control(m, config, code, n)),
    }
}

fn configured_control(m: &Module, config: &TdConfig, code: u32, n: usize) -> u64 {
    match code {
        4 => config.eptp,
        10 => config.tsc_offset,
        11 => config.tsc_multiplier,
        12 => config.tsc_frequency.into(),
        15 => config.xbuff.size.into(),
        control::NOTIFY_ENABLES => config.notify_enables,
        control::HP_LOCK_TIMEOUT => tsc::microseconds(&m.platform, config.hp_lock_timeout),
        control::VM_CTLS => config.vm_ctls[n],
        control::TD_CTLS => config.td_ctls,
        25 => config.topology_enum_configured.into(),
        0x800 => config.xbuff.offsets[n].into(),
        _ => 0,
    }
}

fn measurement(config: &TdConfig, code: u32, n: usize) -> u64 {
    match code {
        0 => word(&config.mrtd, n),
        0x10 => word(&config.mrconfigid, n),
        0x18 => word(&config.mrowner, n),
        0x20 => word(&config.mrownerconfig, n),
        _ => word(&config.rtmr[n / 6], n % 6),
    }
}

/// 64 bits of a measurement.
fn word(digest: &Digest, n: usize) -> u64 {
    let words = digest.0.as_chunks::<8>().0;
    words.get(n).map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Stores a value that was merged from what may be written.
fn store(
    m: &Module,
    td: &Td,
    row: &Field,
    id: FieldId,
    old: u64,
    new: u64,
    mask: u64,
) -> Result<(), TdxStatus> {
    let n = (id.code() - row.id.code()) as usize;
    match (row.id.class(), row.id.code()) {
        (class::CONTROLS, control::NOTIFY_ENABLES) => {
            td.config.with(|config| config.notify_enables = new);
        }
        (class::CONTROLS, control::HP_LOCK_TIMEOUT) => {
            if mask != u64::MAX {
                return Err(TdxStatus::METADATA_WR_MASK_NOT_VALID);
            }
            if !HP_LOCK_TIMEOUT_US.contains(&new) {
                return Err(TdxStatus::METADATA_FIELD_VALUE_NOT_VALID);
            }
            // Module 1.5.06 keeps 32 bits of the ticks that are written.
            let ticks = tsc::ticks(&m.platform, new) & u64::from(u32::MAX);
            td.config.with(|config| config.hp_lock_timeout = ticks);
        }
        (class::CONTROLS, control::VM_CTLS) => td.config.with(|config| config.vm_ctls[n] = new),
        (class::CONTROLS, control::TD_CTLS) => {
            check_td_ctls(td, old, new)?;
            td.config.with(|config| config.td_ctls = new);
        }
        _ => return Err(TdxStatus::METADATA_FIELD_NOT_WRITABLE),
    }
    Ok(())
}

/// What a TD may make of its controls: PENDING_VE_DISABLE only if the host left it the choice, and
/// ENUM_TOPOLOGY only if every vCPU has an x2APIC id.
fn check_td_ctls(td: &Td, old: u64, new: u64) -> Result<(), TdxStatus> {
    let changed = old ^ new;
    let flexible = td.config_flags.load() & ConfigFlags::FLEXIBLE_PENDING_VE.bits() != 0;
    let configured = td.config.with(|config| config.topology_enum_configured);
    let forbidden = (changed & TD_CTLS_PENDING_VE_DISABLE != 0 && !flexible)
        || (new & TD_CTLS_ENUM_TOPOLOGY != 0 && !configured);
    if forbidden {
        return Err(TdxStatus::METADATA_FIELD_VALUE_NOT_VALID);
    }
    Ok(())
}
