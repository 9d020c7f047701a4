// A trust domain as small as can be: one vCPU or more, one page of memory.
#include "check.h"

#define TDX_VM 5
#define MEMORY_ENCRYPT_OP _IOWR(0xae, 0xba, unsigned long)
#define SET_MEMORY_ATTRIBUTES _IOW(0xae, 0xd2, struct attributes)
#define CREATE_GUEST_MEMFD _IOWR(0xae, 0xd4, struct create_guest_memfd)
#define SET_USER_MEMORY_REGION2 _IOW(0xae, 0x49, struct region2)
#define SPLIT_IRQCHIP 121

struct tdx_cmd { uint32_t id, flags; uint64_t data, hw_error; };
struct attributes { uint64_t address, size, attributes, flags; };
struct create_guest_memfd { uint64_t size, flags, reserved[6]; };
struct region2 {
  uint32_t slot, flags;
  uint64_t gpa, size, hva, gmem_offset;
  uint32_t gmem, pad1;
  uint64_t pad2[14];
};
struct mem_region { uint64_t source, gpa, pages; };
struct init_vm {
  uint64_t attributes, xfam, mrconfigid[6], mrowner[6], mrownerconfig[6], reserved[12];
  uint32_t nent, padding;
  struct kvm_cpuid_entry2 entries[256];
};
struct cpuid {
  uint32_t nent, padding;
  struct kvm_cpuid_entry2 entries[256];
};
enum { CAPABILITIES, INIT_VM, INIT_VCPU, INIT_MEM_REGION, FINALIZE_VM, GET_CPUID };

#define NOTIFY_VMEXIT 219

#define GUEST_MEMORY 0x200000
#define MAX_VCPUS 8

struct td {
  int kvm, vm, gmem, vcpus, vcpu[MAX_VCPUS];
  struct kvm_run *run[MAX_VCPUS];
};

static int tdx(int fd, uint32_t id, uint32_t flags, void *data) {
  struct tdx_cmd cmd = {.id = id, .flags = flags, .data = (uintptr_t)data};
  return ioctl(fd, MEMORY_ENCRYPT_OP, &cmd);
}

static int enable(int vm, uint32_t cap, uint64_t arg) {
  struct kvm_enable_cap e = {.cap = cap, .args = {arg}};
  return ioctl(vm, KVM_ENABLE_CAP, &e);
}

// What NOTIFY_VMEXIT is enabled with, which is possible only before the first vCPU; 0 for not at all.
static uint64_t td_notify;

// A TD with memory, vCPUs and nothing measured yet.
static struct td td_new(int vcpus) {
  struct td td = {.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), .vcpus = vcpus};
  CHECK(td.kvm >= 0);
  CHECK((td.vm = ioctl(td.kvm, KVM_CREATE_VM, TDX_VM)) >= 0);
  CHECK(enable(td.vm, SPLIT_IRQCHIP, 24) == 0);
  if (td_notify) CHECK(enable(td.vm, NOTIFY_VMEXIT, td_notify) == 0);
  static struct cpuid cpuid;
  cpuid.nent = 256;
  CHECK(ioctl(td.kvm, KVM_GET_SUPPORTED_CPUID, &cpuid) == 0);
  static struct init_vm init;
  memset(&init, 0, sizeof init);
  init.nent = 1;
  for (uint32_t i = 0; i < cpuid.nent; i++)
    if (cpuid.entries[i].function == 0x80000008) init.entries[0] = cpuid.entries[i];
  init.entries[0].eax &= 0xff00ff;
  init.entries[0].ebx = 0;
  CHECK(tdx(td.vm, INIT_VM, 0, &init) == 0);
  for (int i = 0; i < vcpus; i++) {
    CHECK((td.vcpu[i] = ioctl(td.vm, KVM_CREATE_VCPU, i)) >= 0);
    int size = ioctl(td.kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    td.run[i] = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, td.vcpu[i], 0);
    CHECK(td.run[i] != MAP_FAILED);
    CHECK(ioctl(td.vcpu[i], KVM_SET_CPUID2, &cpuid) == 0);
    CHECK(tdx(td.vcpu[i], INIT_VCPU, 0, (void *)0x1000) == 0);
  }
  struct create_guest_memfd create = {.size = GUEST_MEMORY};
  CHECK((td.gmem = ioctl(td.vm, CREATE_GUEST_MEMFD, &create)) >= 0);
  struct region2 slot = {.flags = 4, .size = GUEST_MEMORY, .gmem = td.gmem};
  void *shared = mmap(NULL, GUEST_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  slot.hva = (uintptr_t)shared;
  CHECK(ioctl(td.vm, SET_USER_MEMORY_REGION2, &slot) == 0);
  struct attributes private = {.size = GUEST_MEMORY, .attributes = 8};
  CHECK(ioctl(td.vm, SET_MEMORY_ATTRIBUTES, &private) == 0);
  return td;
}

static int td_add(struct td *td, void *source, uint64_t gpa, uint64_t pages) {
  struct mem_region region = {.source = (uintptr_t)source, .gpa = gpa, .pages = pages};
  return tdx(td->vcpu[0], INIT_MEM_REGION, 1, &region);
}

// Gives everything back.
__attribute__((unused)) static void td_close(struct td *td) {
  for (int i = 0; i < td->vcpus; i++)
    CHECK(munmap(td->run[i], 12288) == 0 && close(td->vcpu[i]) == 0);
  CHECK(close(td->gmem) == 0 && close(td->vm) == 0 && close(td->kvm) == 0);
}

// A TD that is ready to run.
__attribute__((unused)) static struct td td_ready(int vcpus) {
  struct td td = td_new(vcpus);
  static char page[4096] __attribute__((aligned(4096)));
  CHECK(td_add(&td, page, 0, 1) == 0);
  CHECK(tdx(td.vm, FINALIZE_VM, 0, NULL) == 0);
  return td;
}
