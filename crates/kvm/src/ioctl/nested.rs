//! KVM_GET_NESTED_STATE and KVM_SET_NESTED_STATE: VMX of a guest that could be a hypervisor itself. No
//! guest of seamlock is, so what is here was set by user space, and no guest of a guest can be restored.
//!
//! Source: Linux v7.3.4 `arch/x86/kvm/vmx/nested.c`.

use seamlock_tdx_abi::kvm::{
    Errno, KVM_STATE_NESTED_EVMCS, KVM_STATE_NESTED_FORMAT_VMX, KVM_STATE_NESTED_GIF_SET,
    KVM_STATE_NESTED_GUEST_MODE, KVM_STATE_NESTED_MTF_PENDING, KVM_STATE_NESTED_RUN_PENDING,
    KVM_STATE_NESTED_SMM_GUEST_MODE, KVM_STATE_NESTED_SMM_VMXON, KVM_STATE_NESTED_VMX_VMCS_SIZE,
    KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE, KvmNestedState,
};
use zerocopy::FromZeros;

use crate::error::{Result, fail};
use crate::task::Task;
use crate::vcpu::{State, VcpuRef};

/// `INVALID_GPA`.
const NOWHERE: u64 = u64::MAX;
const HEADER: usize = size_of::<KvmNestedState>();
/// What KVM_CAP_NESTED_STATE answers: the header, a VMCS and its shadow.
pub(super) const MOST_BYTES: usize = HEADER + 2 * KVM_STATE_NESTED_VMX_VMCS_SIZE;
/// `sizeof(struct vmcs12)`.
const VMCS12_BYTES: usize = 998;
/// `VMCS12_REVISION`.
const VMCS12_REVISION: u32 = 0x11e5_7ed0;

/// `struct nested_vmx`, as far as there is no guest of the guest.
#[derive(Clone, Debug, Default)]
pub(crate) struct NestedVmx {
    /// Where the VMXON region is; None outside of VMX operation.
    vmxon: Option<u64>,
    /// The current VMCS and where it is.
    vmcs12: Option<(u64, Vec<u8>)>,
    smm_flags: u16,
    /// The enlightened VMCS was enabled.
    pub(crate) evmcs_enabled: bool,
}

impl NestedVmx {
    /// Whether VMXON was executed.
    pub(crate) fn is_in_vmx_operation(&self) -> bool {
        self.vmxon.is_some()
    }
}

fn has_vmx(state: &State) -> bool {
    let leaf_1 = state.cpuid.iter().find(|entry| entry.function == 1);
    leaf_1.is_some_and(|entry| entry.ecx & 1 << 5 != 0)
}

/// `page_address_valid`.
fn is_page(state: &State, gpa: u64) -> bool {
    gpa & 0xfff == 0 && gpa.checked_shr(state.maxphyaddr()).unwrap_or(0) == 0
}

pub(super) fn get_nested_state(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3768 kvm_arch_vcpu_ioctl";
    let room: u32 = task.get(arg.wrapping_add(4), SITE)?;
    if vcpu.kvm().is_td() {
        // v7.3.4 takes the vCPU for a struct vcpu_vmx here, and follows a pointer that is not there.
        const SITE: &str = "seamlock: arch/x86/kvm/vmx/nested.c:6757 vmx_get_nested_state of a TD";
        return fail(Errno::EINVAL, SITE, "a TD has no nested state");
    }
    let (nested, vmx) = vcpu.state.with(|s| (s.nested.clone(), has_vmx(s)));
    let mut state = KvmNestedState {
        format: KVM_STATE_NESTED_FORMAT_VMX,
        size: HEADER as u32,
        vmxon_pa: NOWHERE,
        vmcs12_pa: NOWHERE,
        ..KvmNestedState::new_zeroed()
    };
    let mut vmcs12 = None;
    if let Some(vmxon) = nested.vmxon.filter(|_| vmx) {
        state.vmxon_pa = vmxon;
        state.smm_flags = nested.smm_flags;
        if let Some((at, bytes)) = nested.vmcs12 {
            state.vmcs12_pa = at;
            state.size += KVM_STATE_NESTED_VMX_VMCS_SIZE as u32;
            vmcs12 = Some(bytes);
        }
    }
    if room < state.size {
        task.put(arg.wrapping_add(4), &state.size, SITE)?;
        return fail(Errno::E2BIG, SITE, "room for less than the state");
    }
    const COPY: &str = "arch/x86/kvm/vmx/nested.c:6827 vmx_get_nested_state";
    task.put(arg, &state, COPY)?;
    if let Some(bytes) = vmcs12 {
        task.put(arg.wrapping_add(HEADER as u64), &bytes[..], COPY)?;
    }
    Ok(0)
}

/// What is wrong with a state whatever the vCPU is like.
fn malformed(new: &KvmNestedState) -> Option<&'static str> {
    const KNOWN: u16 = KVM_STATE_NESTED_RUN_PENDING
        | KVM_STATE_NESTED_GUEST_MODE
        | KVM_STATE_NESTED_EVMCS
        | KVM_STATE_NESTED_MTF_PENDING
        | KVM_STATE_NESTED_GIF_SET;
    let (pending, guest) = (KVM_STATE_NESTED_RUN_PENDING, KVM_STATE_NESTED_GUEST_MODE);
    if (new.size as usize) < HEADER {
        return Some("size is below that of the header");
    }
    if new.flags & !KNOWN != 0 {
        return Some("an unknown flag is set");
    }
    (new.flags & pending != 0 && new.flags & guest == 0)
        .then_some("an entry is pending outside of guest mode")
}

/// The checks of `vmx_set_nested_state` before anything changes.
fn refused(new: &KvmNestedState, state: &State) -> Option<&'static str> {
    let (guest, evmcs) = (KVM_STATE_NESTED_GUEST_MODE, KVM_STATE_NESTED_EVMCS);
    let (smm_guest, smm_vmxon) = (KVM_STATE_NESTED_SMM_GUEST_MODE, KVM_STATE_NESTED_SMM_VMXON);
    if new.format != KVM_STATE_NESTED_FORMAT_VMX {
        return Some("the format is not VMX's");
    }
    if new.vmxon_pa == NOWHERE {
        if new.smm_flags != 0 || new.vmcs12_pa != NOWHERE || new.flags & !evmcs != 0 {
            return Some("state without VMX operation");
        }
    } else if !has_vmx(state) {
        return Some("the guest's CPUID has no VMX");
    } else if !is_page(state, new.vmxon_pa) {
        return Some("vmxon_pa is no page of the guest's");
    }
    if new.smm_flags & smm_guest != 0 && new.flags & guest != 0 {
        return Some("guest mode inside and outside of SMM");
    }
    if new.smm_flags & !(smm_guest | smm_vmxon) != 0 {
        return Some("an unknown flag of SMM is set");
    }
    if new.vmx_flags & !KVM_STATE_VMX_PREEMPTION_TIMER_DEADLINE != 0 {
        return Some("an unknown flag of VMX is set");
    }
    let running = new.flags & (guest | KVM_STATE_NESTED_RUN_PENDING);
    let in_smm = state.events.smi_smm != 0;
    if in_smm && running != 0 || !in_smm && new.smm_flags != 0 {
        return Some("guest mode in SMM, or flags of SMM outside of it");
    }
    if new.smm_flags & smm_guest != 0 && new.smm_flags & smm_vmxon == 0 {
        return Some("guest mode in SMM without VMX operation");
    }
    (new.flags & evmcs != 0 && !(has_vmx(state) && state.nested.evmcs_enabled))
        .then_some("the enlightened VMCS is not enabled")
}

pub(super) fn set_nested_state(task: &Task, vcpu: &VcpuRef, arg: u64) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/x86.c:3796 kvm_arch_vcpu_ioctl";
    const VMX: &str = "arch/x86/kvm/vmx/nested.c:6921 vmx_set_nested_state";
    let new: KvmNestedState = task.get(arg, SITE)?;
    if let Some(why) = malformed(&new) {
        return fail(Errno::EINVAL, SITE, why);
    }
    let _srcu = vcpu.kvm().srcu.read();
    if let Some(why) = vcpu.state.with(|state| refused(&new, state)) {
        return fail(Errno::EINVAL, VMX, why);
    }
    if vcpu.kvm().is_td() && new.vmxon_pa != NOWHERE {
        return fail(Errno::EINVAL, VMX, "a TD has no nested state");
    }
    vcpu.state.with(|state| {
        let evmcs_enabled = state.nested.evmcs_enabled;
        state.nested = NestedVmx {
            vmxon: (new.vmxon_pa != NOWHERE).then_some(new.vmxon_pa),
            evmcs_enabled,
            ..NestedVmx::default()
        };
    });
    if new.vmxon_pa == NOWHERE {
        return Ok(0);
    }
    set_vmcs12(task, vcpu, arg, &new)
}

/// The rest of `vmx_set_nested_state`: VMX operation is on already, whatever is refused now.
fn set_vmcs12(task: &Task, vcpu: &VcpuRef, arg: u64, new: &KvmNestedState) -> Result<i64> {
    const SITE: &str = "arch/x86/kvm/vmx/nested.c:6992 vmx_set_nested_state";
    let guest_mode = new.flags & KVM_STATE_NESTED_GUEST_MODE != 0;
    let evmcs = new.flags & KVM_STATE_NESTED_EVMCS != 0;
    if (new.size as usize) < HEADER + VMCS12_BYTES {
        if guest_mode || evmcs || new.vmcs12_pa != NOWHERE {
            return fail(Errno::EINVAL, SITE, "size is below that of a VMCS");
        }
        return Ok(0);
    }
    if new.vmcs12_pa == NOWHERE {
        if evmcs {
            return fail(
                Errno::EINVAL,
                "seamlock: no guest has a VP assist page",
                "enlightened",
            );
        }
        return fail(Errno::EINVAL, SITE, "a VMCS that is nowhere");
    }
    let is_page = vcpu.state.with(|state| is_page(state, new.vmcs12_pa));
    if new.vmcs12_pa == new.vmxon_pa || !is_page {
        return fail(
            Errno::EINVAL,
            SITE,
            "vmcs12_pa is vmxon_pa, or no page of the guest's",
        );
    }
    let mut bytes = vec![0; KVM_STATE_NESTED_VMX_VMCS_SIZE];
    let read = task.get_bytes(
        arg.wrapping_add(HEADER as u64),
        &mut bytes[..VMCS12_BYTES],
        SITE,
    );
    let revision = bytes
        .first_chunk()
        .map_or(0, |id| u32::from_le_bytes(*id) & 0x7fff_ffff);
    vcpu.state.with(|state| {
        state.nested.vmcs12 = Some((new.vmcs12_pa, bytes));
        state.nested.smm_flags = new.smm_flags;
    });
    read?;
    if revision != VMCS12_REVISION {
        return fail(Errno::EINVAL, SITE, "the VMCS has another revision");
    }
    if guest_mode {
        const SITE: &str = "seamlock: only TDs have guest code";
        return fail(
            Errno::EINVAL,
            SITE,
            "the guest of a guest can't be restored",
        );
    }
    Ok(0)
}
