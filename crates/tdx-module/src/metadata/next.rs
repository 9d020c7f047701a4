//! The id that follows another: how a caller walks through all fields of a scope.

use seamlock_tdx_abi::field::FieldId;

use super::{
    CPUID_CLASS, Field, L2_CLASS_STEP, L2_VMCS, L2_VMCS_CLASS, Scope, VMCS, field::Accessor,
    is_null, l2_vm_of_vmcs, position,
};
use crate::cpuid::{ENTRIES, lookup};

/// Bits 23:0 of an id.
const CODE: u64 = 0xff_ffff;
/// The classes of the L2 VMCS rows of TDVPS, which stand for all fields of the VMCS.
const CLASS: u64 = 0x3f << 56;

/// The id of the next element that may be read, after `id` or, when that is null, from the start.
/// Null when there is none.
pub(crate) fn next(scope: Scope, id: FieldId, accessor: Accessor) -> FieldId {
    let mut place = if is_null(id) {
        Some(Place::first(scope))
    } else {
        match Place::of(scope, id) {
            None => return FieldId::NULL,
            Some(place) => match place.next_element(scope, id) {
                Some(next) => return next,
                None => place.next_row(scope),
            },
        }
    };
    while let Some(here) = place {
        let row = &here.rows[here.index];
        if row.allows(accessor).read != 0 {
            return here.id(scope);
        }
        place = here.next_row(scope);
    }
    FieldId::NULL
}

/// Like [`next`], but past all elements of the field that starts at `id`.
pub(super) fn next_field(scope: Scope, id: FieldId, accessor: Accessor) -> FieldId {
    let elements = scope.find(id).map_or(1, |row| u32::from(row.elements));
    next(scope, id.element(elements - 1), accessor)
}

/// A row in the order of a scope.
#[derive(Clone, Copy)]
struct Place {
    rows: &'static [Field],
    index: usize,
    /// The L2 VM whose VMCS the rows describe, or 0.
    l2_vm: u32,
}

impl Place {
    fn first(scope: Scope) -> Place {
        let rows = match scope {
            Scope::Vp { .. } => &VMCS,
            _ => scope.rows(),
        };
        Place {
            rows,
            index: 0,
            l2_vm: 0,
        }
    }

    fn of(scope: Scope, id: FieldId) -> Option<Place> {
        let rows = scope.rows_of(id);
        let vmcs = match scope {
            Scope::Vp { .. } => l2_vm_of_vmcs(id.class()),
            _ => None,
        };
        Some(Place {
            rows,
            index: position(scope, rows, id)?,
            l2_vm: vmcs.unwrap_or(0),
        })
    }

    /// The next element of the same row.
    fn next_element(&self, scope: Scope, id: FieldId) -> Option<FieldId> {
        let row = &self.rows[self.index];
        if matches!(scope, Scope::Td { .. }) && row.id.class() == CPUID_CLASS {
            return next_cpuid_value(id);
        }
        let offset = id.code() - row.id.code();
        let elements = u32::from(row.fields) * u32::from(row.elements);
        let more = offset / row.stride() + 1 < elements;
        more.then(|| id.element(row.stride()))
    }

    /// The row after this one.
    fn next_row(self, scope: Scope) -> Option<Place> {
        let index = self.index + 1;
        if index < self.rows.len() {
            return Some(Place { index, ..self }.entered(scope));
        }
        if !matches!(scope, Scope::Vp { .. }) {
            return None;
        }
        let rows = scope.rows();
        let at_vmcs = self.rows.len() == VMCS.len() && self.rows[0].id == VMCS[0].id;
        let index = match self.l2_vm {
            0 if at_vmcs => 0,
            0 => return None,
            vm => 1 + rows.iter().position(|row| row.id.class() == l2_class(vm))?,
        };
        let place = Place {
            rows,
            index,
            l2_vm: 0,
        };
        (index < rows.len()).then(|| place.entered(scope))
    }

    /// Goes into the VMCS of an L2 VM where its row stands.
    fn entered(self, scope: Scope) -> Place {
        let vm = l2_vm_of_vmcs(self.rows[self.index].id.class());
        match (scope, vm) {
            (Scope::Vp { .. }, Some(vm)) if self.l2_vm == 0 => Place {
                rows: &L2_VMCS,
                index: 0,
                l2_vm: vm,
            },
            _ => self,
        }
    }

    /// The id of the row's first element.
    fn id(&self, scope: Scope) -> FieldId {
        let id = self.rows[self.index].id;
        if matches!(scope, Scope::Td { .. }) && id.class() == CPUID_CLASS {
            return cpuid_value(id, 0);
        }
        match self.l2_vm {
            0 => id,
            vm => FieldId(id.0 & !CLASS | u64::from(l2_class(vm)) << 56),
        }
    }
}

fn l2_class(vm: u32) -> u8 {
    L2_VMCS_CLASS + (vm as u8 - 1) * L2_CLASS_STEP
}

fn cpuid_value(id: FieldId, index: usize) -> FieldId {
    let code = FieldId::cpuid_values(ENTRIES[index].leaf, ENTRIES[index].subleaf, 0).code();
    FieldId(id.0 & !CODE | u64::from(code))
}

fn next_cpuid_value(id: FieldId) -> Option<FieldId> {
    if id.code() & 1 == 0 {
        return Some(id.element(1));
    }
    let (leaf, subleaf) = cpuid_leaf(id);
    let here = lookup(leaf, subleaf)?;
    let next = (here + 1..ENTRIES.len()).find(|i| ENTRIES[*i].is_used())?;
    Some(cpuid_value(id, next))
}

/// The leaf and subleaf that the id of a CPUID value names.
pub(super) fn cpuid_leaf(id: FieldId) -> (u32, u32) {
    let code = id.code();
    let leaf = code >> 9 & 0x7f | (code >> 16 & 1) << 31;
    let subleaf = if code >> 8 & 1 != 0 {
        u32::MAX
    } else {
        code >> 1 & 0x7f
    };
    (leaf, subleaf)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Accessor = Accessor::Host { debug: false };
    const DEBUG: Accessor = Accessor::Host { debug: true };

    fn walk(scope: Scope, accessor: Accessor) -> Vec<FieldId> {
        let first = next(scope, FieldId::NULL, accessor);
        let step = |id: &FieldId| Some(next(scope, *id, accessor)).filter(|id| !is_null(*id));
        std::iter::successors(Some(first), step).collect()
    }

    #[test]
    fn a_walk_meets_every_readable_element_once_in_ascending_order() {
        let ids = walk(Scope::Sys, HOST);
        let elements = |row: &Field| u32::from(row.fields) * u32::from(row.elements);
        let readable = super::super::SYS.iter().map(elements).sum::<u32>();
        assert_eq!(ids.len() as u32, readable);
        assert!(ids.is_sorted_by_key(|id| (id.class(), id.code())));
        for id in ids {
            assert!(Scope::Sys.find(id).is_some(), "{id:?}");
        }
    }

    #[test]
    fn a_walk_through_a_td_passes_both_halves_of_every_cpuid_leaf() {
        let ids = walk(Scope::Td { l2_vms: 0 }, HOST);
        let cpuid = ids.iter().filter(|id| id.class() == CPUID_CLASS);
        let used = ENTRIES.iter().filter(|e| e.is_used()).count();
        assert_eq!(cpuid.count(), 2 * used);
        assert!(ids.contains(&FieldId::cpuid_values(2, None, 1)));
    }

    #[test]
    fn a_walk_through_a_vcpu_starts_with_its_vmcs_and_enters_those_of_l2_vms() {
        let ids = walk(Scope::Vp { l2_vms: 0 }, HOST);
        assert_eq!(ids[0], FieldId(0x0024_0001_0000_0002));
        assert!(ids.iter().all(|id| l2_vm_of_vmcs(id.class()).is_none()));
        let ids = walk(Scope::Vp { l2_vms: 2 }, DEBUG);
        let classes: Vec<u8> = ids.iter().map(|id| id.class()).collect();
        for class in [0, 32, 36, 37, 38, 44, 45, 46] {
            assert!(classes.contains(&class), "{class}");
        }
        assert!(!classes.contains(&52));
        assert!(classes.is_sorted());
    }

    #[test]
    fn the_bits_of_an_id_that_do_not_matter_are_kept_within_a_row() {
        let scope = Scope::Td { l2_vms: 0 };
        assert_eq!(
            next(scope, FieldId(0x1310_0003_0000_0000), HOST),
            FieldId(0x1310_0003_0000_0001)
        );
        assert_eq!(
            next(scope, FieldId(0x1110_0000_0000_0000), HOST),
            FieldId(0x1110_0003_0000_0001)
        );
    }
}
