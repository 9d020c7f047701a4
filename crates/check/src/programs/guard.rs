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
use std::sync::Arc;

use seamlock_sync::{Class, Mode};

use crate::programs::api::{Api, Ours, Threads, Wrong, add, reporting};
use crate::programs::sections::factorial;
use crate::scenario::Setup;

static KVM_LOCK: Class = Class::new("kvm->lock");
static SLOTS_LOCK: Class = Class::new("slots_lock");
static VCPU_MUTEX: Class = Class::new("vcpu->mutex");
static CREATED: Class = Class::new("created_vcpus");
static ONLINE: Class = Class::new("online_vcpus");
static STATE: Class = Class::new("kvm_tdx->state");
static TDR: Class = Class::new("TDR");
static TDVPR: Class = Class::new("TDVPR");

const INITIALIZED: u64 = 1;
const RUNNABLE: u64 = 2;

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
        add(setup, self.threads::<Ours>(reporting(setup.reporter())));
    }

    /// The threads; they call `wrong` for what must not happen.
    pub fn threads<A: Api>(&self, wrong: Wrong) -> Threads {
        let vm = Arc::new(Vm::<A>::new(*self, wrong));
        let mut threads: Threads = Vec::new();
        let mem = vm.clone();
        threads.push(("mem".into(), Box::new(move || mem.init_mem_region())));
        for vcpu in 1..=self.vcpus as usize {
            let vm = vm.clone();
            let name = VCPU_NAMES[vcpu % VCPU_NAMES.len()];
            threads.push((name.into(), Box::new(move || vm.vcpu_ioctls(vcpu))));
        }
        if self.finalize {
            let vm = vm.clone();
            threads.push(("finalize".into(), Box::new(move || vm.finalize())));
        }
        if self.create {
            threads.push(("create".into(), Box::new(move || vm.create())));
        }
        threads
    }
}

const VCPU_NAMES: [&str; 11] = [
    "vcpu0", "vcpu1", "vcpu2", "vcpu3", "vcpu4", "vcpu5", "vcpu6", "vcpu7", "vcpu8", "vcpu9",
    "vcpu10",
];

/// The SEAMCALL was refused.
struct Refused;

struct Vcpu<A: Api> {
    mutex: A::Mutex,
    tdvpr: A::Word,
}

struct Vm<A: Api> {
    model: Guard,
    kvm_lock: A::Mutex,
    slots_lock: A::Mutex,
    created: A::Cell,
    online: A::Cell,
    state: A::Cell,
    tdr: A::Word,
    vcpus: Vec<Vcpu<A>>,
    wrong: Wrong,
}

/// Runs `act` with the mutex held, if it is `wanted`.
fn locked_if<A: Api, R>(wanted: bool, mutex: &A::Mutex, act: impl FnOnce() -> R) -> R {
    if wanted { A::locked(mutex, act) } else { act() }
}

impl<A: Api> Vm<A> {
    fn new(model: Guard, wrong: Wrong) -> Vm<A> {
        let vcpu = |id| Vcpu {
            mutex: A::mutex(VCPU_MUTEX.at(id)),
            tdvpr: A::word(TDVPR.at(id)),
        };
        // vCPU 0 is there and initialised; the last one is the one to be created.
        let there = 1 + u64::from(model.vcpus);
        Vm {
            model,
            kvm_lock: A::mutex(KVM_LOCK.only()),
            slots_lock: A::mutex(SLOTS_LOCK.only()),
            created: A::cell(CREATED.only(), there),
            online: A::cell(ONLINE.only(), there),
            state: A::cell(STATE.only(), INITIALIZED),
            tdr: A::word(TDR.only()),
            vcpus: (0..=there).map(vcpu).collect(),
            wrong,
        }
    }

    /// Runs `act` with what a VM-wide ioctl holds, or is -EBUSY. `vcpu` is the one it was called on.
    fn whole_vm(&self, vcpu: Option<usize>, act: impl FnOnce()) {
        let policy = self.model.policy;
        match (policy, vcpu) {
            (Policy::Before | Policy::Slots, Some(vcpu)) => {
                A::locked(&self.vcpus[vcpu].mutex, || A::locked(&self.slots_lock, act));
            }
            (Policy::Before | Policy::Slots, None) => A::locked(&self.kvm_lock, || {
                locked_if::<A, _>(policy == Policy::Slots, &self.slots_lock, act);
            }),
            _ => A::locked(&self.kvm_lock, || {
                A::locked(&self.slots_lock, || {
                    let online = A::load(&self.online);
                    if policy != Policy::NoCheck && online != A::load(&self.created) {
                        return;
                    }
                    let all = if policy == Policy::NoVcpus {
                        0
                    } else {
                        online as usize
                    };
                    Self::all_locked(&self.vcpus[..all], act);
                });
            }),
        }
    }

    fn all_locked(vcpus: &[Vcpu<A>], act: impl FnOnce()) {
        match vcpus.split_first() {
            None => act(),
            Some((first, rest)) => A::locked(&first.mutex, || Self::all_locked(rest, act)),
        }
    }

    fn init_mem_region(&self) {
        self.whole_vm(Some(0), || {
            if A::load(&self.state) != INITIALIZED {
                return;
            }
            let leaves = |_| {
                let extends = std::iter::repeat_n("MR.EXTEND", self.model.extends as usize);
                std::iter::once("PAGE.ADD").chain(extends)
            };
            for leaf in (0..self.model.pages).flat_map(leaves) {
                if self.seamcall(leaf, Mode::Exclusive, None).is_err() {
                    return;
                }
            }
        });
    }

    fn finalize(&self) {
        self.whole_vm(None, || {
            let initialized = A::load(&self.state) == INITIALIZED;
            if initialized && self.seamcall("MR.FINALIZE", Mode::Exclusive, None).is_ok() {
                A::store(&self.state, RUNNABLE);
            }
        });
    }

    fn create(&self) {
        A::locked(&self.kvm_lock, || A::fetch_add(&self.created, 1));
        let may = A::load(&self.state) == INITIALIZED;
        let vcpu = A::locked(&self.kvm_lock, || {
            if !may {
                A::fetch_add(&self.created, 1u64.wrapping_neg());
                return None;
            }
            if A::load(&self.state) != INITIALIZED {
                let what = "a vCPU was published in a TD that is no longer being built";
                (self.wrong)("stale state", what.to_owned());
            }
            Some(A::fetch_add(&self.online, 1) as usize)
        });
        if let Some(vcpu) = vcpu {
            let _ = self.init_vcpu(vcpu);
        }
    }

    fn vcpu_ioctls(&self, vcpu: usize) {
        if self.init_vcpu(vcpu).is_ok() && self.model.ioctls > 1 {
            let _ = self.cpuid(vcpu);
        }
    }

    fn vcpu_ioctl(
        &self,
        vcpu: usize,
        act: impl FnOnce() -> Result<(), Refused>,
    ) -> Result<(), Refused> {
        A::locked(&self.vcpus[vcpu].mutex, || {
            if self.model.flush {
                self.seamcall("VP.FLUSH", Mode::Shared, Some(vcpu))?;
            }
            let slots = matches!(self.model.policy, Policy::Slots | Policy::GuardSlots);
            locked_if::<A, _>(slots, &self.slots_lock, act)
        })
    }

    fn init_vcpu(&self, vcpu: usize) -> Result<(), Refused> {
        self.vcpu_ioctl(vcpu, || {
            if A::load(&self.state) != INITIALIZED {
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
            A::load(&self.state);
            self.seamcall("MNG.RD", Mode::Shared, None)
        })
    }

    /// Tries the words that a SEAMCALL tries, and gives them back.
    fn seamcall(&self, leaf: &'static str, mode: Mode, vcpu: Option<usize>) -> Result<(), Refused> {
        if !A::try_word(&self.tdr, mode) {
            return self.busy(leaf, "TDR");
        }
        let mut result = Ok(());
        if let Some(vcpu) = vcpu.map(|vcpu| &self.vcpus[vcpu]) {
            if A::try_word(&vcpu.tdvpr, Mode::Exclusive) {
                A::release(&vcpu.tdvpr, Mode::Exclusive);
            } else {
                result = self.busy(leaf, "TDVPR");
            }
        }
        A::release(&self.tdr, mode);
        result
    }

    #[cold]
    fn busy(&self, leaf: &str, operand: &str) -> Result<(), Refused> {
        (self.wrong)("no-fail SEAMCALL", format!("{leaf} found {operand} busy"));
        Err(Refused)
    }
}
