//! `TDH.MNG.INIT` (leaf 21): gives a TD its parameters.
//!
//! RCX = TDR, held alone; RDX = TD_PARAMS, a multiple of 1024. Out: RCX = the CPUID leaf in 31:0
//! and subleaf in 63:32 whose configuration is refused, or zero. What was checked is kept even when
//! a later check fails; the TD stays uninitialised then, and the call may be repeated.

use seamlock_sync::Mode;
use seamlock_tdx_abi::addr::Hpa;
use seamlock_tdx_abi::leaf::Leaf;
use seamlock_tdx_abi::lifecycle::OpState;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;
use seamlock_tdx_abi::td_params::{
    Attributes, ConfigFlags, EptpControls, MAX_L2_VMS, MAX_VCPUS_PER_TD, TD_PARAMS_ALIGN,
    TSC_FREQUENCY_MAX, TSC_FREQUENCY_MIN, TdParams, XFAM_FIXED0, XFAM_FIXED1, Xfam,
};
use zerocopy::{FromZeros, IntoBytes};

use crate::Module;
use crate::call::{Call, Done, invalid};
use crate::cpuid;
use crate::measure::{Digest, Launch};
use crate::msr::{ARCH_CAPABILITIES_CONFIG, TSC_ADJUST, virtual_arch_capabilities};
use crate::operand::check_td;
use crate::platform::Platform;
use crate::td::{
    MIN_TDCS_PAGES, SEPT_ROOT_PAGE, TD_CTLS_PENDING_VE_DISABLE, TDCS_PAGES_PER_L2_VM, Td,
};
use crate::tsc;

/// Default of HP_LOCK_TIMEOUT in microseconds.
const DEFAULT_HP_LOCK_TIMEOUT_US: u64 = 1_000_000;

pub(crate) fn run(call: &mut Call<'_, '_>) -> Done {
    let (m, lp, operands) = (call.m, call.lp, *call.r);
    call.r.rcx = 0;
    if m.platform.events.limits_cpuid(lp) {
        return Err(TdxStatus::LIMIT_CPUID_MAXVAL_SET);
    }
    let tdr = m.hold_tdr(operands.rcx, Mode::Exclusive, OperandId::RCX)?;
    let td = tdr.td;
    check_td(td, Leaf::MNG_INIT)?;
    let params = m.check_shared_hpa(operands.rdx, TD_PARAMS_ALIGN, OperandId::RDX)?;
    let params = read_params(m, params);

    reset_counts(td);
    let timeout = tsc::ticks(&m.platform, DEFAULT_HP_LOCK_TIMEOUT_US);
    td.config.with(|config| config.hp_lock_timeout = timeout);
    set_features(&m.platform, td, &params)?;
    set_shape(&m.platform, td, &params)?;
    set_tsc(m, lp, td, &params)?;
    set_identity(td, &params)?;
    set_cpuid(m, td, &params).map_err(|(status, rcx)| {
        call.r.rcx = rcx;
        status
    })?;
    let migratable = params.attributes & Attributes::MIGRATABLE.bits() != 0;
    if migratable && params.num_l2_vms != 0 {
        return Err(invalid(OperandId::RDX));
    }
    td.launch.with(|launch| *launch = Launch::default());
    td.config.with(|config| config.rtmr = Default::default());
    td.set_op_state(OpState::INITIALIZED);
    Ok(())
}

fn read_params(m: &Module, pa: Hpa) -> TdParams {
    let mut params = TdParams::new_zeroed();
    // Where there is no memory the structure reads as zeros, as every read of a hole does.
    let _ = m.memory.read(pa, params.as_mut_bytes());
    params
}

fn is_zero(reserved: &[u8]) -> Result<(), TdxStatus> {
    if reserved.iter().all(|byte| *byte == 0) {
        Ok(())
    } else {
        Err(invalid(OperandId::RDX))
    }
}

fn reset_counts(td: &Td) {
    td.num_vcpus.poke(0);
    td.num_assoc.store(0);
    td.td_epoch.poke(1);
    td.refcount.iter().for_each(|count| count.poke(0));
}

/// ATTRIBUTES, XFAM, MAX_VCPUS and the number of L2 VMs.
fn set_features(platform: &Platform, td: &Td, params: &TdParams) -> Result<(), TdxStatus> {
    if !are_attributes_valid(platform, params.attributes) {
        return Err(invalid(OperandId::ATTRIBUTES));
    }
    td.attributes.store(params.attributes);
    let pending_ve_disable = params.attributes & Attributes::SEPT_VE_DISABLE.bits() != 0;
    td.config.with(|config| {
        config.td_ctls &= !TD_CTLS_PENDING_VE_DISABLE;
        config.td_ctls |= if pending_ve_disable {
            TD_CTLS_PENDING_VE_DISABLE
        } else {
            0
        };
    });
    if !is_xfam_valid(platform, params.xfam) {
        return Err(invalid(OperandId::XFAM));
    }
    td.xfam.store(params.xfam);
    let xbuff = platform.xsave_layout(params.xfam);
    td.config.with(|config| config.xbuff = xbuff);
    if params.max_vcpus == 0 || params.max_vcpus > MAX_VCPUS_PER_TD {
        return Err(invalid(OperandId::MAX_VCPUS));
    }
    td.max_vcpus.store(params.max_vcpus.into());
    if params.num_l2_vms > MAX_L2_VMS {
        return Err(invalid(OperandId::NUM_L2_VMS));
    }
    let l2_vms = u32::from(params.num_l2_vms);
    if td.num_tdcx.load() < MIN_TDCS_PAGES + TDCS_PAGES_PER_L2_VM * l2_vms {
        return Err(TdxStatus::TDCS_NOT_ALLOCATED);
    }
    td.num_l2_vms.store(l2_vms);
    is_zero(&params.reserved_0)
}

fn are_attributes_valid(platform: &Platform, raw: u64) -> bool {
    let attributes = Attributes::from_bits_retain(raw);
    let excluded = Attributes::DEBUG | Attributes::PERFMON;
    let migratable = attributes.contains(Attributes::MIGRATABLE);
    raw & !platform.attributes_fixed0 == 0
        && !raw & platform.attributes_fixed1 == 0
        && !(migratable && attributes.intersects(excluded))
}

fn is_xfam_valid(platform: &Platform, raw: u64) -> bool {
    let xfam = Xfam::from_bits_retain(raw);
    let all_or_none = |features: Xfam| !xfam.intersects(features) || xfam.contains(features);
    let supported = XFAM_FIXED0 & (platform.xcr0_supported | platform.xss_supported);
    raw & !supported == 0
        && !raw & XFAM_FIXED1 == 0
        && all_or_none(Xfam::AVX512)
        && all_or_none(Xfam::CET_U | Xfam::CET_S)
        && all_or_none(Xfam::AMX)
        && (xfam.contains(Xfam::AVX) || !xfam.intersects(Xfam::AVX512))
}

/// CONFIG_FLAGS and the shape of the secure EPT.
fn set_shape(platform: &Platform, td: &Td, params: &TdParams) -> Result<(), TdxStatus> {
    if params.config_flags & !platform.config_flags_fixed0 != 0 {
        return Err(invalid(OperandId::EXEC_CONTROLS));
    }
    let flags = ConfigFlags::from_bits_retain(params.config_flags);
    let wide = flags.contains(ConfigFlags::GPAW);
    let eptp = EptpControls(params.eptp_controls);
    let max_levels = if platform.ept_5_level && platform.maxpa > 48 {
        5
    } else {
        4
    };
    let valid = eptp.memory_type() == EptpControls::MEMORY_TYPE_WB
        && (4..=max_levels).contains(&eptp.levels())
        && eptp.reserved() == 0
        && (!wide || eptp.levels() == 5);
    if !valid {
        return Err(invalid(OperandId::EPTP_CONTROLS));
    }
    td.ept_levels.store(eptp.levels().into());
    let root = td.tdcx(SEPT_ROOT_PAGE);
    td.config.with(|config| config.eptp = eptp.0 | root.0);
    td.config_flags.store(params.config_flags);
    td.gpaw_52.store(wide);
    Ok(())
}

/// The virtual time-stamp counter: it starts from zero now.
fn set_tsc(m: &Module, lp: u32, td: &Td, params: &TdParams) -> Result<(), TdxStatus> {
    let frequency = params.tsc_frequency;
    if !(TSC_FREQUENCY_MIN..=TSC_FREQUENCY_MAX).contains(&frequency) {
        return Err(invalid(OperandId::TSC_FREQUENCY));
    }
    td.config.with(|config| config.tsc_frequency = frequency);
    let events = &m.platform.events;
    if !events.tsc_adjust_unchanged(lp) {
        return Err(TdxStatus::INCONSISTENT_MSR.with_details(TSC_ADJUST));
    }
    let multiplier = tsc::multiplier(&m.platform, frequency);
    let offset = tsc::offset(events.tsc(lp), multiplier);
    td.config.with(|config| {
        config.tsc_multiplier = multiplier;
        config.tsc_offset = offset;
    });
    is_zero(&params.reserved_1)
}

/// What is only reported, and the reserved areas around it.
fn set_identity(td: &Td, params: &TdParams) -> Result<(), TdxStatus> {
    td.config.with(|config| {
        config.mrconfigid = Digest(params.mrconfigid);
        config.mrowner = Digest(params.mrowner);
        config.mrownerconfig = Digest(params.mrownerconfig);
    });
    if params.msr_config_ctls & !ARCH_CAPABILITIES_CONFIG != 0 {
        return Err(invalid(OperandId::RDX));
    }
    is_zero(&params.reserved_2)
}

/// CPUID and IA32_ARCH_CAPABILITIES.
fn set_cpuid(m: &Module, td: &Td, params: &TdParams) -> Result<(), (TdxStatus, u64)> {
    let found = cpuid::virtualize(&m.platform, &m.sys.native_cpuid, params)?;
    td.virt_maxpa.store(found.virt_maxpa);
    td.config.with(|config| {
        config.cpuid = found.values.to_vec();
        config.topology_enum_configured = true;
    });
    is_zero(&params.reserved_3).map_err(|status| (status, 0))?;
    let refused = (invalid(OperandId::IA32_ARCH_CAPABILITIES_CONFIG), 0);
    let capabilities = virtual_arch_capabilities(&m.platform, params, found.tsx).ok_or(refused)?;
    td.config
        .with(|config| config.ia32_arch_capabilities = capabilities);
    Ok(())
}
