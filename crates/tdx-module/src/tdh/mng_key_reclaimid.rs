//! `TDH.MNG.KEY.RECLAIMID` (leaf 27): does nothing; kept for hosts that still call it.

use crate::call::{Call, Done};

pub(crate) fn run(_call: &mut Call<'_, '_>) -> Done {
    Ok(())
}
