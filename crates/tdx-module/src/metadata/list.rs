//! Lists: many fields at once, as sequences of a header and values.
//!
//! A list starts with its size in bytes (15:0) and its number of sequences (31:16). A sequence
//! holds fields whose ids follow each other without a gap; its header is the id of the first, with
//! the number of elements of each field and the number of fields, both less one.

use seamlock_tdx_abi::field::FieldId;
use seamlock_tdx_abi::status::TdxStatus;

use super::next::next_field;
use super::{Accessor, Field, SYS, Scope, is_null, next, read_sys};
use crate::Module;

const WORD: usize = 8;
const LAST_ELEMENT_SHIFT: u32 = 34;
const LAST_FIELD_SHIFT: u32 = 38;

/// A list of the module's fields from `first` on, in at most `max_bytes`, and the id of the first
/// field that is not in it, or null.
///
/// # Errors
/// METADATA_FIELD_ID_INCORRECT when `first` is not the start of a field.
pub(crate) fn list_sys(
    m: &Module,
    first: FieldId,
    accessor: Accessor,
    max_bytes: usize,
) -> Result<(Vec<u8>, FieldId), TdxStatus> {
    let mut id = if is_null(first) {
        next(Scope::Sys, first, accessor)
    } else {
        start_of_field(first)?
    };
    let mut list = vec![0; WORD];
    let (mut sequences, mut open) = (0u16, None::<Open>);
    while let Some(row) = Scope::Sys.find(id).filter(|_| !is_null(id)) {
        let elements = usize::from(row.elements);
        let extends = open.as_ref().is_some_and(|open| open.extends_to(row, id));
        let needed = WORD * (elements + usize::from(!extends));
        if list.len() + needed > max_bytes {
            break;
        }
        let sequence = match open.take() {
            Some(sequence) if extends => Open {
                fields: sequence.fields + 1,
                ..sequence
            },
            _ => {
                sequences += 1;
                let at = list.len();
                list.extend([0; WORD]);
                Open {
                    at,
                    first: id,
                    row,
                    fields: 1,
                }
            }
        };
        sequence.write_header(&mut list);
        for element in 0..u32::from(row.elements) {
            let value = read_sys(m, id.element(element * row.stride()), accessor).unwrap_or(0);
            list.extend(value.to_le_bytes());
        }
        open = Some(sequence);
        id = next_field(Scope::Sys, id, accessor);
    }
    let header = list.len() as u64 | u64::from(sequences) << 16;
    list[..WORD].copy_from_slice(&header.to_le_bytes());
    Ok((list, id))
}

fn start_of_field(id: FieldId) -> Result<FieldId, TdxStatus> {
    let row = SYS.iter().find(|row| {
        let offset = id.code().wrapping_sub(row.id.code());
        row.id.class() == id.class()
            && offset < row.span()
            && offset.is_multiple_of(u32::from(row.elements))
            && row.id.element_bytes() == id.element_bytes()
    });
    let row = row.ok_or(TdxStatus::METADATA_FIELD_ID_INCORRECT)?;
    Ok(row.id.element(id.code() - row.id.code()))
}

/// A sequence that may grow.
struct Open {
    /// Offset of its header.
    at: usize,
    first: FieldId,
    row: &'static Field,
    fields: u64,
}

impl Open {
    fn extends_to(&self, row: &Field, id: FieldId) -> bool {
        let end = self.first.code() + self.fields as u32 * u32::from(self.row.elements);
        (id.class(), id.code()) == (self.first.class(), end)
            && row.elements == self.row.elements
            && row.id.element_bytes() == self.row.id.element_bytes()
    }

    fn write_header(&self, list: &mut [u8]) {
        let elements = u64::from(self.row.elements) - 1;
        let counts = elements << LAST_ELEMENT_SHIFT | (self.fields - 1) << LAST_FIELD_SHIFT;
        let header = self.first.0 | counts;
        list[self.at..][..WORD].copy_from_slice(&header.to_le_bytes());
    }
}
