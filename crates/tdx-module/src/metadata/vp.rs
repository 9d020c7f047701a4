//! The values of a vCPU's fields.

use seamlock_tdx_abi::addr::Gpa;
use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::operand::OperandId;
use seamlock_tdx_abi::status::TdxStatus;

use super::field::{Accessor, Content};
use super::{Field, Scope, VMCS_CLASS, l2_vm_of_vmcs, merge, vmcs, vp_store};
use crate::Module;
use crate::td::Td;
use crate::vp::Vp;

/// An access to the metadata of a vCPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct VpAccess<'a> {
    pub(crate) m: &'a Module,
    pub(crate) td: &'a Td,
    pub(crate) vp: &'a Vp,
    pub(crate) accessor: Accessor,
}

/// One element: its row, its id and, for a VMCS field, the VM (0 for the TD itself).
#[derive(Clone, Copy, Debug)]
pub(super) struct Element {
    pub(super) row: &'static Field,
    pub(super) id: FieldId,
    pub(super) vm: Option<u32>,
}

impl VpAccess<'_> {
    /// Where ids are looked up.
    pub(crate) fn scope(&self) -> Scope {
        Scope::Vp {
            l2_vms: self.td.num_l2_vms.load(),
        }
    }

    /// Finds an element.
    fn element(&self, id: FieldId) -> Result<Element, TdxStatus> {
        let incorrect = TdxStatus::METADATA_FIELD_ID_INCORRECT;
        let row = self.scope().find(id).ok_or(incorrect)?;
        let vm = match id.class() {
            VMCS_CLASS => Some(0),
            class => l2_vm_of_vmcs(class),
        };
        // An odd encoding is the upper half of a 64-bit field.
        let upper_half = vm.is_some() && id.code() & 1 != 0;
        if upper_half || vm.is_some_and(|vm| vm > self.td.num_l2_vms.load()) {
            return Err(incorrect);
        }
        Ok(Element { row, id, vm })
    }

    fn value(&self, element: Element) -> u64 {
        let value = match element.vm {
            Some(vm) => vmcs::read(self, vm, element.id.code()),
            None => vp_store::read(self, element.row, element.id),
        };
        value & element.row.size_mask()
    }
}

/// Reads one element.
///
/// # Errors
/// METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_READABLE.
#[inline]
pub(crate) fn read_vp(access: &VpAccess<'_>, id: FieldId) -> Result<u64, TdxStatus> {
    let element = access.element(id)?;
    match element.row.allows(access.accessor).read {
        0 => Err(TdxStatus::METADATA_FIELD_NOT_READABLE),
        readable => Ok(access.value(element) & readable),
    }
}

/// Writes the bits of `mask` of one element and returns what was there.
///
/// # Errors
/// METADATA_FIELD_ID_INCORRECT, METADATA_FIELD_NOT_WRITABLE, METADATA_FIELD_VALUE_NOT_VALID,
/// TD_VMCS_FIELD_NOT_INITIALIZED.
pub(crate) fn write_vp(
    access: &VpAccess<'_>,
    id: FieldId,
    value: u64,
    mask: u64,
) -> Result<u64, TdxStatus> {
    let element = access.element(id)?;
    let row = element.row;
    let rights = row.allows(access.accessor);
    if mask & rights.write == 0 {
        return Err(TdxStatus::METADATA_FIELD_NOT_WRITABLE);
    }
    let old = access.value(element);
    // What is replaced as a whole is not compared with what was there.
    let mut base = if mask & rights.write == row.size_mask() {
        0
    } else {
        old
    };
    if row.content != Content::Value && base >> 63 != 0 {
        // No address was given yet; bits that can't be written don't stay set.
        base &= rights.write;
    }
    let new = merge(base, value, mask, rights.write)?;
    check_address(access, element, new)?;
    match element.vm {
        Some(vm) => vmcs::write(access, vm, element.id.code(), new, mask & rights.write)?,
        None => vp_store::write(access, row, id, new)?,
    }
    Ok(old & rights.read)
}

/// Bytes of a posted-interrupt descriptor.
const POSTED_INTERRUPT_DESCRIPTOR_BYTES: u64 = 64;

/// Checks an address that the host or the guest chooses.
fn check_address(access: &VpAccess<'_>, element: Element, new: u64) -> Result<(), TdxStatus> {
    let valid = match element.row.content {
        Content::Value | Content::Address => true,
        Content::SharedHpa => {
            let posted =
                element.vm.is_some() && element.id.code() == vmcs::POSTED_INTERRUPT_DESCRIPTOR;
            let size = if posted {
                POSTED_INTERRUPT_DESCRIPTOR_BYTES
            } else {
                4096
            };
            let start = new & !(size - 1);
            access
                .m
                .check_shared_hpa(start, size, OperandId::R8)
                .is_ok()
        }
        Content::PrivateGpa => access.td.is_private_gpa(Gpa(new)),
    };
    if valid {
        Ok(())
    } else {
        Err(TdxStatus::METADATA_FIELD_VALUE_NOT_VALID)
    }
}
