//! A TD: the contents of its TDR and TDCS pages.
//!
//! # Locking
//! | fields | guarded by |
//! |---|---|
//! | life cycle, fatal, HKID, keys, TDCX pages | TDR exclusive to write, shared to read |
//! | `OP_STATE`, measurement, configuration | written under TDR exclusive, read under TDR shared |
//! | `NUM_VCPUS` | atomic: VP.INIT version 0 holds the TDR shared only |
//! | `CHLDCNT`, `NUM_ASSOC_VCPUS` | atomic counts; read for a decision under TDR exclusive only |
//! | `TD_EPOCH` | written under the epoch lock exclusive; TLB-tracking checks read it without |
//! | `REFCOUNT` | added to under the epoch lock shared, subtracted from without any (TD exit) |
//! | RTMRs | the RTMR lock |

use seamlock_sync::{Class, Plain, Private, Shared, Sharex, SharexHp};
use seamlock_tdx_abi::addr::{Gpa, Hkid, Hpa, NULL_PA};
use seamlock_tdx_abi::lifecycle::{LifecycleState, OpState};

use crate::measure::{Digest, Launch, LaunchCell};
use crate::platform::XsaveLayout;
use crate::sept::LastTable;

/// TDCS pages that MNG.INIT needs (TDCS_BASE_SIZE / 4096).
pub(crate) const MIN_TDCS_PAGES: u32 = 6;
/// TDCS pages that MNG.ADDCX accepts: one more for each L2 VM.
pub(crate) const MAX_TDCS_PAGES: u32 = 9;
/// TDCS pages more for each L2 VM.
pub(crate) const TDCS_PAGES_PER_L2_VM: u32 = 1;
/// TD_CTLS: a private EPT violation on a pending page exits to the host and does not raise #VE.
pub(crate) const TD_CTLS_PENDING_VE_DISABLE: u64 = 1;
/// TD_CTLS: the guest sees the processor topology that the host configured.
pub(crate) const TD_CTLS_ENUM_TOPOLOGY: u64 = 1 << 1;
/// Index of the TDCS page that is the root of the L1 secure EPT.
pub(crate) const SEPT_ROOT_PAGE: usize = 3;

static NUM_VCPUS: Class = Class::new("TDCS.NUM_VCPUS");
static EPOCH: Class = Class::new("TDCS.TD_EPOCH value");
static REFCOUNT: Class = Class::new("TDCS.REFCOUNT");

/// A TD.
#[derive(Debug)]
pub(crate) struct Td {
    /// The TDR page.
    pub(crate) tdr: Hpa,
    pub(crate) fatal: Plain<bool>,
    lifecycle: Plain<u32>,
    hkid: Plain<u16>,
    /// Packages whose key is configured, one bit each.
    pub(crate) pkg_config: Plain<u32>,
    /// Pages that belong to the TD, the TDR not counted.
    pub(crate) chldcnt: Plain<u64>,
    pub(crate) num_tdcx: Plain<u32>,
    tdcx: [Plain<u64>; MAX_TDCS_PAGES as usize],

    op_state: Plain<u32>,
    pub(crate) op_state_lock: SharexHp,
    pub(crate) sept_lock: Sharex,
    pub(crate) epoch_lock: Sharex,
    pub(crate) rtmr_lock: SharexHp,

    pub(crate) num_vcpus: Shared<u32>,
    pub(crate) num_assoc: Plain<u32>,
    pub(crate) td_epoch: Shared<u64>,
    pub(crate) refcount: [Shared<u16>; 2],

    pub(crate) attributes: Plain<u64>,
    pub(crate) xfam: Plain<u64>,
    pub(crate) max_vcpus: Plain<u32>,
    pub(crate) num_l2_vms: Plain<u32>,
    pub(crate) config_flags: Plain<u64>,
    /// Levels of the secure EPT: 4 or 5.
    pub(crate) ept_levels: Plain<u32>,
    /// Whether the shared bit is bit 51 (GPAW 52) and not bit 47.
    pub(crate) gpaw_52: Plain<bool>,
    /// Width of a physical address that the TD is shown.
    pub(crate) virt_maxpa: Plain<u32>,

    /// Where the last page was added.
    pub(crate) last_table: LastTable,
    /// The running hash of MRTD.
    pub(crate) launch: LaunchCell,
    /// What is only configured, read and reported.
    pub(crate) config: Private<TdConfig>,
}

/// The part of a TDCS that no lock decision depends on.
#[derive(Debug, Default)]
pub(crate) struct TdConfig {
    pub(crate) uuid: [u64; 4],
    pub(crate) eptp: u64,
    pub(crate) tsc_frequency: u16,
    pub(crate) tsc_offset: u64,
    pub(crate) tsc_multiplier: u64,
    /// How long a guest may have to yield to the host, in native TSC ticks.
    pub(crate) hp_lock_timeout: u64,
    pub(crate) mrconfigid: Digest,
    pub(crate) mrowner: Digest,
    pub(crate) mrownerconfig: Digest,
    pub(crate) mrtd: Digest,
    pub(crate) rtmr: [Digest; 4],
    pub(crate) servtd_hash: Digest,
    /// Hash of TDINFO, until an RTMR changes.
    pub(crate) tee_info_hash: Option<Digest>,
    pub(crate) ia32_arch_capabilities: u64,
    /// Where extended state lies in the vCPUs' XSAVE area.
    pub(crate) xbuff: XsaveLayout,
    /// CPUID_VALUES: EAX, EBX, ECX, EDX in the order of [`crate::cpuid::ENTRIES`]; empty before
    /// MNG.INIT.
    pub(crate) cpuid: Vec<[u32; 4]>,
    /// Whether every vCPU so far was initialised by VP.INIT version 1.
    pub(crate) topology_enum_configured: bool,
    /// x2APIC ids given to vCPUs, by index.
    pub(crate) x2apic_ids: Vec<u32>,
    pub(crate) td_ctls: u64,
    pub(crate) notify_enables: u64,
    /// VM_CTLS by VM; that of the TD itself (0) has no bits.
    pub(crate) vm_ctls: [u64; 4],
}

impl Td {
    pub(crate) fn new(tdr: Hpa) -> Td {
        Td {
            tdr,
            fatal: Plain::new(false),
            lifecycle: Plain::new(LifecycleState::HKID_ASSIGNED.0),
            hkid: Plain::new(0),
            pkg_config: Plain::new(0),
            chldcnt: Plain::new(0),
            num_tdcx: Plain::new(0),
            tdcx: [const { Hpa(NULL_PA) }; MAX_TDCS_PAGES as usize].map(|pa| Plain::new(pa.0)),
            op_state: Plain::new(OpState::UNINITIALIZED.0),
            op_state_lock: SharexHp::new(),
            sept_lock: Sharex::new(),
            epoch_lock: Sharex::new(),
            rtmr_lock: SharexHp::new(),
            num_vcpus: Shared::new(NUM_VCPUS.at(tdr.0), 0),
            num_assoc: Plain::new(0),
            td_epoch: Shared::new(EPOCH.at(tdr.0), 0),
            refcount: [0, 1].map(|i| Shared::new(REFCOUNT.of(tdr.0, i), 0)),
            attributes: Plain::new(0),
            xfam: Plain::new(0),
            max_vcpus: Plain::new(0),
            num_l2_vms: Plain::new(0),
            config_flags: Plain::new(0),
            ept_levels: Plain::new(0),
            gpaw_52: Plain::new(false),
            virt_maxpa: Plain::new(0),
            last_table: LastTable::default(),
            launch: LaunchCell::default(),
            config: Private::new(TdConfig::default()),
        }
    }

    /// Empties the TDR and forgets the TDCS, as MNG.CREATE does; the caller holds the page alone.
    /// Lock words in the TDCS go with it: the TDCS of the new TD has pages of its own.
    pub(crate) fn create(&self, hkid: Hkid) {
        self.fatal.store(false);
        self.lifecycle.store(LifecycleState::HKID_ASSIGNED.0);
        self.hkid.store(hkid.0);
        self.pkg_config.store(0);
        self.chldcnt.store(0);
        self.num_tdcx.store(0);
        self.op_state.store(OpState::UNINITIALIZED.0);
        self.num_vcpus.poke(0);
        self.num_assoc.store(0);
        self.td_epoch.poke(0);
        self.refcount.iter().for_each(|count| count.poke(0));
        for plain in [&self.attributes, &self.xfam, &self.config_flags] {
            plain.store(0);
        }
        self.max_vcpus.store(0);
        self.num_l2_vms.store(0);
        self.ept_levels.store(0);
        self.gpaw_52.store(false);
        self.virt_maxpa.store(0);
        self.last_table.forget();
        self.launch.with(|launch| *launch = Launch::default());
        self.config.with(|config| *config = TdConfig::default());
    }

    #[inline]
    pub(crate) fn lifecycle(&self) -> LifecycleState {
        LifecycleState(self.lifecycle.load())
    }

    pub(crate) fn set_lifecycle(&self, state: LifecycleState) {
        self.lifecycle.store(state.0);
    }

    #[inline]
    pub(crate) fn op_state(&self) -> OpState {
        OpState(self.op_state.load())
    }

    pub(crate) fn set_op_state(&self, state: OpState) {
        self.op_state.store(state.0);
    }

    pub(crate) fn hkid(&self) -> Hkid {
        Hkid(self.hkid.load())
    }

    /// The TDCS page of this index.
    pub(crate) fn tdcx(&self, index: usize) -> Hpa {
        Hpa(self.tdcx[index].load())
    }

    pub(crate) fn set_tdcx(&self, index: usize, pa: Hpa) {
        self.tdcx[index].store(pa.0);
    }

    /// Whether `gpa` is a private address that the TD can have: inside its GPA width and the physical
    /// address width that it is shown, and without the shared bit.
    #[inline]
    pub(crate) fn is_private_gpa(&self, gpa: Gpa) -> bool {
        let width: u32 = if self.gpaw_52.load() { 52 } else { 48 };
        gpa.0 >> (width - 1).min(self.virt_maxpa.load()) == 0
    }

    /// Level of the entries in the root of the secure EPT: 3, or 4 with five levels.
    #[inline]
    pub(crate) fn top_level(&self) -> u8 {
        (self.ept_levels.load() as u8).saturating_sub(1)
    }

    /// L2 VMs of the TD, 0 to 3.
    pub(crate) fn l2_vms(&self) -> u8 {
        self.num_l2_vms.load() as u8
    }

    /// Whether the page's content may be seen by the host.
    pub(crate) fn is_debug(&self) -> bool {
        self.attributes.load() & 1 != 0
    }
}
