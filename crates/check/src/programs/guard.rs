//! The guard scenario: building a TD's memory against the ioctls of its vCPUs, with the SEAMCALLs
//! reduced to their lock words.
//!
//! `mem` is KVM_TDX_INIT_MEM_REGION on vCPU 0, which is initialised already; `vcpu1`… are
//! KVM_TDX_INIT_VCPU (VP.CREATE, VP.ADDCX, VP.INIT) and KVM_TDX_GET_CPUID (MNG.RD) of further vCPUs;
//! `finalize` is KVM_TDX_FINALIZE_VM; `create` is KVM_CREATE_VCPU and KVM_TDX_INIT_VCPU of one more.
//! Every SEAMCALL tries the TDR's word (shared or exclusive), those of a vCPU its TDVPR's as well, and
//! each try and release is an operation of its own. The TDR's holders never wait, so a refusal is a
//! failure of the discipline.

use std::fmt;
use std::rc::Rc;

use seamlock_sync::{Class, Mode, Mutex, MutexGuard, Name, Shared, SharexHp};

use crate::programs::sections::factorial;
use crate::scenario::{Reporter, Setup, Violation};

static KVM_LOCK: Class = Class::new("kvm->lock");
static SLOTS_LOCK: Class = Class::new("slots_lock");
static VCPU_MUTEX: Class = Class::new("vcpu->mutex");
static CREATED: Class = Class::new("created_vcpus");
static ONLINE: Class = Class::new("online_vcpus");
static STATE: Class = Class::new("kvm_tdx->state");
static TDR: Class = Class::new("TDR");
static TDVPR: Class = Class::new("TDVPR");

const INITIALIZED: u32 = 1;
const RUNNABLE: u32 = 2;

/// Which locks the ioctls take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// vCPU ioctls their vCPU's mutex; FINALIZE kvm->lock; population its vCPU's mutex and slots_lock.
    Before,
    /// As before, and slots_lock in every one of them.
    Slots,
    /// VM-wide ones take kvm->lock, slots_lock and all vCPU mutexes, if no vCPU is being created.
    Guard,
    /// The guard without the test whether a vCPU is being created.
    NoCheck,
    /// The guard without the vCPU mutexes.
    NoVcpus,
    /// The guard, and slots_lock in vCPU ioctls too, inside their mutex.
    GuardSlots,
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Policy::Before => "before",
            Policy::Slots => "slots",
            Policy::Guard => "guard",
            Policy::NoCheck => "nocheck",
            Policy::NoVcpus => "novcpus",
            Policy::GuardSlots => "guardslots",
        })
    }
}

/// The scenario's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The locking discipline.
    pub policy: Policy,
    /// Further vCPU threads, 0 to 10.
    pub vcpus: u32,
    /// Pages that `mem` adds.
    pub pages: u32,
    /// MR.EXTEND calls for each page.
    pub extends: u32,
    /// VP.ADDCX calls for each vCPU.
    pub addcx: u32,
    /// Ioctls of each vCPU thread: 1 leaves GET_CPUID out.
    pub ioctls: u32,
    /// Whether there is a `finalize` thread.
    pub finalize: bool,
    /// Whether there is a `create` thread.
    pub create: bool,
    /// Whether vCPU ioctls begin with VP.FLUSH, as `vcpu_load` on another CPU does.
    pub flush: bool,
}

impl Guard {
    /// The full size: 4 pages of 16 MR.EXTEND, 6 VP.ADDCX.
    pub fn full(policy: Policy, vcpus: u32) -> Guard {
        Guard {
            pages: 4,
            extends: 16,
            addcx: 6,
            ..Guard::small(policy, vcpus)
        }
    }

    /// One page with one MR.EXTEND, one VP.ADDCX.
    pub fn small(policy: Policy, vcpus: u32) -> Guard {
        Guard {
            policy,
            vcpus,
            pages: 1,
            extends: 1,
            addcx: 1,
            ioctls: 2,
            finalize: false,
            create: false,
            flush: false,
        }
    }

    /// The same with a `finalize` thread.
    pub fn with_finalize(self) -> Guard {
        Guard {
            finalize: true,
            ..self
        }
    }

    /// The same with a `create` thread.
    pub fn with_create(self) -> Guard {
        Guard {
            create: true,
            ..self
        }
    }

    /// The same with VP.FLUSH at the start of vCPU ioctls.
    pub fn with_flush(self) -> Guard {
        Guard {
            flush: true,
            ..self
        }
    }

    /// The number of traces, where a closed form is known.
    ///
    /// Under the guard a vCPU thread with J ioctls can be placed against g guards in C(J+g, g) ways;
    /// with `create` the placements are summed over the orders of the sections of `kvm->lock`.
    pub fn traces(&self) -> Option<u64> {
        let placed = |guards: u64| {
            let ioctls = u64::from(self.ioctls);
            let ways = factorial(ioctls + guards) / factorial(ioctls) / factorial(guards);
            ways.pow(self.vcpus)
        };
        match (self.policy, self.finalize, self.create) {
            _ if self.flush => None,
            (Policy::Guard, false, false) => Some(placed(1)),
            (Policy::Guard, true, false) => Some(2 * placed(2)),
            (Policy::Guard, false, true) => Some(3 * placed(1) + 1),
            (Policy::Guard, true, true) => Some(11 * placed(2) + 6 * placed(1) + 2),
            (Policy::Slots, true, false) if self.ioctls == 2 => {
                Some(factorial(u64::from(2 * self.vcpus + 2)) >> self.vcpus)
            }
            _ => None,
        }
    }

    /// Builds the scenario.
    pub fn build(&self, setup: &mut Setup) {
        let vm = Rc::new(Vm::new(*self, setup.reporter()));
        let mem = vm.clone();
        setup.thread("mem", move || mem.init_mem_region());
        for vcpu in 1..=self.vcpus as usize {
            let vm = vm.clone();
            setup.thread(VCPU_NAMES[vcpu % VCPU_NAMES.len()], move || {
                if vm.init_vcpu(vcpu).is_ok() && vm.model.ioctls > 1 {
                    let _ = vm.cpuid(vcpu);
                }
            });
        }
        if self.finalize {
            let vm = vm.clone();
            setup.thread("finalize", move || vm.finalize());
        }
        if self.create {
            setup.thread("create", move || vm.create());
        }
    }
}

const VCPU_NAMES: [&str; 11] = [
    "vcpu0", "vcpu1", "vcpu2", "vcpu3", "vcpu4", "vcpu5", "vcpu6", "vcpu7", "vcpu8", "vcpu9",
    "vcpu10",
];

/// The SEAMCALL was refused.
struct Refused;

struct Vcpu {
    mutex: Mutex<()>,
    tdvpr: SharexHp,
    name: Name,
}

struct Vm {
    model: Guard,
    kvm_lock: Mutex<()>,
    slots_lock: Mutex<()>,
    created: Shared<u32>,
    online: Shared<u32>,
    state: Shared<u32>,
    tdr: SharexHp,
    vcpus: Vec<Vcpu>,
    reporter: Reporter,
}

/// What a VM-wide ioctl holds.
struct Held<'a> {
    _vcpus: Vec<MutexGuard<'a, ()>>,
    _slots: Option<MutexGuard<'a, ()>>,
    _kvm: Option<MutexGuard<'a, ()>>,
}

impl Vm {
    fn new(model: Guard, reporter: Reporter) -> Vm {
        let vcpu = |id| Vcpu {
            mutex: Mutex::new(VCPU_MUTEX.at(id), ()),
            tdvpr: SharexHp::new(),
            name: TDVPR.at(id),
        };
        // vCPU 0 is there and initialised; the last one is the one to be created.
        let there = 1 + model.vcpus;
        Vm {
            model,
            kvm_lock: Mutex::new(KVM_LOCK.only(), ()),
            slots_lock: Mutex::new(SLOTS_LOCK.only(), ()),
            created: Shared::new(CREATED.only(), there),
            online: Shared::new(ONLINE.only(), there),
            state: Shared::new(STATE.only(), INITIALIZED),
            tdr: SharexHp::new(),
            vcpus: (0..=u64::from(there)).map(vcpu).collect(),
            reporter,
        }
    }

    fn guarded(&self) -> bool {
        !matches!(self.model.policy, Policy::Before | Policy::Slots)
    }

    /// Takes what a VM-wide ioctl takes; `None` is -EBUSY. `vcpu` is the one it was called on.
    fn whole_vm(&self, vcpu: Option<usize>) -> Option<Held<'_>> {
        let guarded = self.guarded();
        let kvm = (guarded || vcpu.is_none()).then(|| self.kvm_lock.lock());
        let mut vcpus = Vec::with_capacity(self.vcpus.len());
        if let (false, Some(vcpu)) = (guarded, vcpu) {
            vcpus.push(self.vcpus[vcpu].mutex.lock());
        }
        let slots = guarded || vcpu.is_some() || self.model.policy == Policy::Slots;
        let slots = slots.then(|| self.slots_lock.lock());
        if guarded {
            let online = self.online.load();
            if self.model.policy != Policy::NoCheck && online != self.created.load() {
                return None;
            }
            if self.model.policy != Policy::NoVcpus {
                let nest = kvm.as_ref().map(MutexGuard::name);
                for vcpu in &self.vcpus[..online as usize] {
                    vcpus.push(vcpu.mutex.lock_nested(nest));
                }
            }
        }
        Some(Held {
            _vcpus: vcpus,
            _slots: slots,
            _kvm: kvm,
        })
    }

    fn init_mem_region(&self) {
        let Some(_held) = self.whole_vm(Some(0)) else {
            return;
        };
        if self.state.load() != INITIALIZED {
            return;
        }
        for _ in 0..self.model.pages {
            if self.seamcall("PAGE.ADD", Mode::Exclusive, None).is_err() {
                return;
            }
            for _ in 0..self.model.extends {
                if self.seamcall("MR.EXTEND", Mode::Exclusive, None).is_err() {
                    return;
                }
            }
        }
    }

    fn finalize(&self) {
        let Some(_held) = self.whole_vm(None) else {
            return;
        };
        if self.state.load() != INITIALIZED {
            return;
        }
        if self.seamcall("MR.FINALIZE", Mode::Exclusive, None).is_ok() {
            self.state.store(RUNNABLE);
        }
    }

    fn create(&self) {
        {
            let _kvm = self.kvm_lock.lock();
            self.created.fetch_add(1);
        }
        let may = self.state.load() == INITIALIZED;
        let id = {
            let _kvm = self.kvm_lock.lock();
            if !may {
                self.created.fetch_sub(1);
                return;
            }
            if self.state.load() != INITIALIZED {
                let cause = "a vCPU was published in a TD that is no longer being built";
                self.reporter.report(Violation::new("stale state", cause));
            }
            self.online.fetch_add(1)
        };
        let _ = self.init_vcpu(id as usize);
    }

    fn vcpu_ioctl<R>(
        &self,
        vcpu: usize,
        act: impl FnOnce() -> Result<R, Refused>,
    ) -> Result<R, Refused> {
        let _vcpu = self.vcpus[vcpu].mutex.lock();
        if self.model.flush {
            self.seamcall("VP.FLUSH", Mode::Shared, Some(vcpu))?;
        }
        let slots = matches!(self.model.policy, Policy::Slots | Policy::GuardSlots);
        let _slots = slots.then(|| self.slots_lock.lock());
        act()
    }

    fn init_vcpu(&self, vcpu: usize) -> Result<(), Refused> {
        self.vcpu_ioctl(vcpu, || {
            if self.state.load() != INITIALIZED {
                return Ok(());
            }
            self.seamcall("VP.CREATE", Mode::Shared, Some(vcpu))?;
            for _ in 0..self.model.addcx {
                self.seamcall("VP.ADDCX", Mode::Shared, Some(vcpu))?;
            }
            self.seamcall("VP.INIT", Mode::Shared, Some(vcpu))
        })
    }

    fn cpuid(&self, vcpu: usize) -> Result<(), Refused> {
        self.vcpu_ioctl(vcpu, || {
            self.state.load();
            self.seamcall("MNG.RD", Mode::Shared, None)
        })
    }

    /// Tries the words that a SEAMCALL tries, and gives them back.
    fn seamcall(&self, leaf: &'static str, mode: Mode, vcpu: Option<usize>) -> Result<(), Refused> {
        let tdr = TDR.only();
        if !self.tdr.try_acquire(mode, tdr) {
            return self.busy(leaf, "TDR");
        }
        let mut result = Ok(());
        if let Some(vcpu) = vcpu.map(|vcpu| &self.vcpus[vcpu]) {
            if vcpu.tdvpr.try_exclusive(vcpu.name) {
                vcpu.tdvpr.release_exclusive(vcpu.name);
            } else {
                result = self.busy(leaf, "TDVPR");
            }
        }
        self.tdr.release(mode, tdr);
        result
    }

    #[cold]
    fn busy(&self, leaf: &str, operand: &str) -> Result<(), Refused> {
        let cause = format!("{leaf} found {operand} busy");
        self.reporter
            .report(Violation::new("no-fail SEAMCALL", cause));
        Err(Refused)
    }
}
