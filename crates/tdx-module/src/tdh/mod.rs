//! The host leaves: one file each, named as the leaf is.

use seamlock_tdx_abi::leaf::Leaf;

use crate::call::{Call, Done};

mod mem_page_add;
mod mem_page_aug;
mod mem_page_demote;
mod mem_page_promote;
mod mem_page_relocate;
mod mem_page_remove;
mod mem_range_block;
mod mem_range_unblock;
mod mem_rd;
mod mem_sept_add;
mod mem_sept_rd;
mod mem_sept_remove;
mod mem_track;
mod mem_wr;
mod mng_addcx;
mod mng_create;
mod mng_init;
mod mng_key_config;
mod mng_key_freeid;
mod mng_key_reclaimid;
mod mng_rd;
mod mng_vpflushdone;
mod mng_wr;
mod mr_extend;
mod mr_finalize;
mod phymem_cache_wb;
mod phymem_page_rdmd;
mod phymem_page_reclaim;
mod phymem_page_wbinvd;
mod sys_config;
mod sys_info;
mod sys_init;
mod sys_key_config;
mod sys_lp_init;
mod sys_lp_shutdown;
mod sys_rd;
mod sys_rdall;
mod sys_shutdown;
mod sys_tdmr_init;
mod sys_update;
mod vp_addcx;
mod vp_create;
pub(crate) mod vp_enter;
mod vp_flush;
pub(crate) mod vp_init;
mod vp_rd;
mod vp_wr;

/// A leaf's code.
type Run = fn(&mut Call<'_, '_>) -> Done;

macro_rules! leaves {
    ($($leaf:ident => $file:ident,)*) => {
        /// Every leaf that the module has.
        pub const LEAVES: &[Leaf] = &[$(Leaf::$leaf),*];

        /// The code of a leaf; None for a leaf that the module does not have.
        #[inline]
        pub(crate) fn entry(leaf: Leaf) -> Option<Run> {
            match leaf {
                $(Leaf::$leaf => Some($file::run),)*
                _ => None,
            }
        }
    };
}

leaves! {
    MEM_PAGE_ADD => mem_page_add,
    MEM_PAGE_AUG => mem_page_aug,
    MEM_PAGE_DEMOTE => mem_page_demote,
    MEM_PAGE_PROMOTE => mem_page_promote,
    MEM_PAGE_RELOCATE => mem_page_relocate,
    MEM_PAGE_REMOVE => mem_page_remove,
    MEM_RANGE_BLOCK => mem_range_block,
    MEM_RANGE_UNBLOCK => mem_range_unblock,
    MEM_RD => mem_rd,
    MEM_SEPT_ADD => mem_sept_add,
    MEM_SEPT_RD => mem_sept_rd,
    MEM_SEPT_REMOVE => mem_sept_remove,
    MEM_TRACK => mem_track,
    MEM_WR => mem_wr,
    MNG_ADDCX => mng_addcx,
    MNG_CREATE => mng_create,
    MNG_INIT => mng_init,
    MNG_KEY_CONFIG => mng_key_config,
    MNG_KEY_FREEID => mng_key_freeid,
    MNG_KEY_RECLAIMID => mng_key_reclaimid,
    MNG_RD => mng_rd,
    MNG_VPFLUSHDONE => mng_vpflushdone,
    MNG_WR => mng_wr,
    MR_EXTEND => mr_extend,
    MR_FINALIZE => mr_finalize,
    PHYMEM_CACHE_WB => phymem_cache_wb,
    PHYMEM_PAGE_RDMD => phymem_page_rdmd,
    PHYMEM_PAGE_RECLAIM => phymem_page_reclaim,
    PHYMEM_PAGE_WBINVD => phymem_page_wbinvd,
    SYS_CONFIG => sys_config,
    SYS_INFO => sys_info,
    SYS_INIT => sys_init,
    SYS_KEY_CONFIG => sys_key_config,
    SYS_LP_INIT => sys_lp_init,
    SYS_LP_SHUTDOWN => sys_lp_shutdown,
    SYS_RD => sys_rd,
    SYS_RDALL => sys_rdall,
    SYS_SHUTDOWN => sys_shutdown,
    SYS_TDMR_INIT => sys_tdmr_init,
    SYS_UPDATE => sys_update,
    VP_ADDCX => vp_addcx,
    VP_CREATE => vp_create,
    VP_ENTER => vp_enter,
    VP_FLUSH => vp_flush,
    VP_INIT => vp_init,
    VP_RD => vp_rd,
    VP_WR => vp_wr,
}
