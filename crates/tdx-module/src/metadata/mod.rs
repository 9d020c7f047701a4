//! Metadata: fields that the host, and the TD, access by id.
//!
//! Which fields there are and who may do what with them is data: [`SYS`], [`TD`], [`VP`], [`VMCS`]
//! and [`L2_VMCS`], one row for a field or an array of fields. Their values are where the module
//! keeps them; reads and writes go there by class and code.
//!
//! A single element is named by class and code alone: size, increment, context, the write-mask bit
//! and the non-architectural bit of an id are ignored.
//!
//! Source: TDX module 1.5.06, `metadata_handlers`; ABI specification, "Metadata Access Interface".

mod field;
mod l2_vmcs_fields;
mod list;
mod next;
mod sys;
mod sys_fields;
mod td;
mod td_fields;
mod vmcs;
mod vmcs_fields;
mod vp;
mod vp_fields;
mod vp_store;

use seamlock_tdx_abi::field::{FieldContext, FieldId};
use seamlock_tdx_abi::status::TdxStatus;

pub(crate) use field::Accessor;
pub use field::{Field, Rights};
pub use l2_vmcs_fields::L2_VMCS;
pub(crate) use list::list_sys;
pub(crate) use next::next;
pub(crate) use sys::{MAX_CMRS, read_sys};
pub use sys_fields::SYS;
pub(crate) use td::{read_td, write_td};
pub use td_fields::TD;
pub use vmcs_fields::VMCS;
pub(crate) use vp::{VpAccess, read_vp, write_vp};
pub use vp_fields::VP;

/// L2 VMs that a TD can have; rows of those that it does not have do not exist for it.
const MAX_L2_VMS: u32 = 3;

/// The bits of an id that say which context it belongs to.
const CONTEXT_BITS: u64 = 7 << 52;

/// Where ids are looked up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// The module.
    Sys,
    /// A TD.
    Td {
        /// Its number of L2 VMs.
        l2_vms: u32,
    },
    /// A vCPU.
    Vp {
        /// Its TD's number of L2 VMs.
        l2_vms: u32,
    },
}

/// Class of CPUID_VALUES, whose codes name a leaf and subleaf.
pub(crate) const CPUID_CLASS: u8 = 20;
/// Class of the vCPU's own VMCS.
pub(crate) const VMCS_CLASS: u8 = 0;
/// Class of the VMCS of the first L2 VM; the others follow in steps of [`L2_CLASS_STEP`].
pub(crate) const L2_VMCS_CLASS: u8 = 36;
/// Distance of the classes of two L2 VMs.
pub(crate) const L2_CLASS_STEP: u8 = 8;

impl Scope {
    fn context(self) -> FieldContext {
        match self {
            Scope::Sys => FieldContext::SYS,
            Scope::Td { .. } => FieldContext::TD,
            Scope::Vp { .. } => FieldContext::VP,
        }
    }

    /// The id with this scope as its context, whatever context it names.
    pub(crate) fn id(self, raw: u64) -> FieldId {
        FieldId(raw & !CONTEXT_BITS | u64::from(self.context().0) << 52)
    }

    /// The main rows; those of the VMCSs are apart.
    fn rows(self) -> &'static [Field] {
        match self {
            Scope::Sys => &SYS,
            Scope::Td { l2_vms } => &TD[..TD.len() - (MAX_L2_VMS - l2_vms) as usize],
            Scope::Vp { l2_vms } => &VP[..VP.len() - 3 * (MAX_L2_VMS - l2_vms) as usize],
        }
    }

    /// The rows that an id is looked up in.
    #[inline]
    fn rows_of(self, id: FieldId) -> &'static [Field] {
        match self {
            Scope::Vp { .. } if id.class() == VMCS_CLASS => &VMCS,
            Scope::Vp { .. } if l2_vm_of_vmcs(id.class()).is_some() => &L2_VMCS,
            _ => self.rows(),
        }
    }

    /// The row that covers an id.
    #[inline]
    pub(crate) fn find(self, id: FieldId) -> Option<&'static Field> {
        let rows = self.rows_of(id);
        position(self, rows, id).map(|i| &rows[i])
    }
}

/// The index of the row that covers an id.
#[inline]
fn position(scope: Scope, rows: &[Field], id: FieldId) -> Option<usize> {
    let mut key = field::key(id);
    match scope {
        // The code of a CPUID value is a leaf and subleaf; its row starts with the first element.
        Scope::Td { .. } if id.class() == CPUID_CLASS => key = u32::from(CPUID_CLASS) << 24,
        Scope::Vp { .. } if l2_vm_of_vmcs(id.class()).is_some() => key &= 0xff_ffff,
        _ => {}
    }
    let after = rows.partition_point(|row| row.key() <= key);
    let at = after.checked_sub(1)?;
    (key - rows[at].key() < rows[at].span()).then_some(at)
}

/// The L2 VM, from 1, that a class of VMCS fields belongs to.
#[inline]
pub(crate) fn l2_vm_of_vmcs(class: u8) -> Option<u32> {
    match class {
        36 => Some(1),
        44 => Some(2),
        52 => Some(3),
        _ => None,
    }
}

/// Whether an id asks for the first field.
pub(crate) fn is_null(id: FieldId) -> bool {
    id.0 | CONTEXT_BITS == FieldId::NULL.0
}

/// Checks an id that names a single element.
///
/// # Errors
/// METADATA_FIELD_ID_INCORRECT: reserved bits, or a sequence of several elements.
#[inline]
pub(crate) fn check_single(id: FieldId) -> Result<(), TdxStatus> {
    if id.reserved() != 0 || id.last_element() != 0 || id.last_field() != 0 {
        return Err(TdxStatus::METADATA_FIELD_ID_INCORRECT);
    }
    Ok(())
}

/// Merges a written value into what is there.
///
/// # Errors
/// METADATA_FIELD_NOT_WRITABLE when no bit may be written, METADATA_FIELD_VALUE_NOT_VALID when a
/// bit changes that may not.
fn merge(old: u64, value: u64, mask: u64, writable: u64) -> Result<u64, TdxStatus> {
    let combined = mask & writable;
    if combined == 0 {
        return Err(TdxStatus::METADATA_FIELD_NOT_WRITABLE);
    }
    if (old ^ value) & mask & !writable != 0 {
        return Err(TdxStatus::METADATA_FIELD_VALUE_NOT_VALID);
    }
    Ok(old & !combined | value & combined)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables() -> [&'static [Field]; 5] {
        [&SYS, &TD, &VP, &VMCS, &L2_VMCS]
    }

    #[test]
    fn rows_are_ascending_and_do_not_overlap() {
        for rows in tables() {
            for pair in rows.windows(2) {
                let cpuid = pair[0].id.class() == CPUID_CLASS;
                let end = pair[0].key() + if cpuid { 2 } else { pair[0].span() };
                assert!(end <= pair[1].key(), "{} {}", pair[0].name, pair[1].name);
            }
        }
    }

    #[test]
    fn what_may_be_written_may_be_read() {
        for row in tables().into_iter().flatten() {
            for rights in [row.production, row.debug] {
                assert_eq!(rights.write & !rights.read, 0, "{}", row.name);
            }
        }
    }

    #[test]
    fn every_id_that_the_abi_names_is_found_by_its_name() {
        let scopes = [
            (FieldId::SYS, Scope::Sys),
            (FieldId::TD, Scope::Td { l2_vms: 3 }),
            (FieldId::VP, Scope::Vp { l2_vms: 3 }),
        ];
        for (ids, scope) in scopes {
            for (id, name) in ids {
                let row = scope.find(scope.id(id.0));
                let row = row.unwrap_or_else(|| panic!("{name}"));
                assert_eq!(row.key() & 0xff_ffff, id.code(), "{name}");
            }
        }
    }

    #[test]
    fn rows_of_l2_vms_exist_only_with_the_vms() {
        let root = FieldId::TDCS_L2_SEPT_ROOT_2;
        assert!(Scope::Td { l2_vms: 1 }.find(root).is_none());
        assert!(Scope::Td { l2_vms: 2 }.find(root).is_some());
        let bitmaps = FieldId(0x2520_0003_0000_0000);
        assert!(Scope::Vp { l2_vms: 0 }.find(bitmaps).is_none());
        assert!(Scope::Vp { l2_vms: 1 }.find(bitmaps).is_some());
    }

    #[test]
    fn an_id_is_found_whatever_its_size_context_and_architectural_bit() {
        let scope = Scope::Td { l2_vms: 0 };
        for raw in [
            0x1110_0003_0000_0000,
            0x1100_0000_0000_0000,
            0x9170_0003_0000_0000,
        ] {
            let row = scope.find(scope.id(raw));
            assert_eq!(row.map(|row| row.name), Some("ATTRIBUTES"));
        }
        assert!(scope.find(FieldId(0x1110_0003_0000_0200)).is_none());
    }
}
