// The exits of script.txt: what KVM_RUN leaves in struct kvm_run, and how user space completes it.
#include "td.h"
#include <stddef.h>

// What the system's header may be too old for.
#define EXIT_NOTIFY 37
#define EXIT_MEMORY_FAULT 39
#define EXIT_TDX 40
#define EVENT_TDX_FATAL 7
#define CAP_EXIT_HYPERCALL 201
#define CAP_USER_SPACE_MSR 188
#define MAP_GPA_RANGE 12
#define PRIVATE 8

struct memory_fault { uint64_t flags, gpa, size; };
struct tdx_exit {
  uint64_t flags, nr;
  union {
    struct { uint64_t ret, data[5]; } unknown;
    struct { uint64_t ret, gpa, size; } quote;
    struct { uint64_t ret, leaf, r11, r12, r13, r14; } info;
    struct { uint64_t ret, vector; } notify;
  };
};

static struct td td;
static struct kvm_run *run;

// The union of struct kvm_run.
static void *data(void) { return &run->hw; }

static void exits(uint32_t reason) {
  int done = ioctl(td.vcpu[0], KVM_RUN, 0);
  if (done != 0 || run->exit_reason != reason)
    fprintf(stderr, "KVM_RUN %d, exit %u and not %u\n", done, run->exit_reason, reason);
  CHECK(done == 0 && run->exit_reason == reason);
}

static void faults(uint64_t gpa, uint64_t flags) {
  FAILS(ioctl(td.vcpu[0], KVM_RUN, 0), EFAULT);
  struct memory_fault *fault = data();
  CHECK(run->exit_reason == EXIT_MEMORY_FAULT);
  CHECK(fault->gpa == gpa && fault->size == 4096 && fault->flags == flags);
}

static void attributes(uint64_t gpa, uint64_t attributes) {
  struct attributes a = {.address = gpa, .size = 4096, .attributes = attributes};
  CHECK(ioctl(td.vm, SET_MEMORY_ATTRIBUTES, &a) == 0);
}

static void ports(void) {
  uint8_t *page = (uint8_t *)run;
  exits(KVM_EXIT_IO);
  CHECK(run->io.direction == KVM_EXIT_IO_OUT && run->io.size == 1 && run->io.port == 0x3f8);
  CHECK(run->io.count == 1 && run->io.data_offset == 4096 && page[4096] == 0x41);
  exits(KVM_EXIT_IO);
  CHECK(run->io.direction == KVM_EXIT_IO_IN && run->io.size == 2 && run->io.port == 0x60);
  memcpy(page + run->io.data_offset, "\xcd\xab\xff\xff", 4);
}

static void mmio(void) {
  exits(KVM_EXIT_MMIO);
  CHECK(run->mmio.phys_addr == 0xfec00000 && run->mmio.len == 4 && run->mmio.is_write == 1);
  CHECK(memcmp(run->mmio.data, "\x55\x44\x33\x22\0\0\0\0", 8) == 0);
  exits(KVM_EXIT_MMIO);
  CHECK(run->mmio.phys_addr == 0xfed00000 && run->mmio.len == 8 && run->mmio.is_write == 0);
  memcpy(run->mmio.data, "\x88\x77\x66\x55\x44\x33\x22\x11", 8);
}

static void map(uint64_t gpa, uint64_t pages, uint64_t attributes, uint64_t answer) {
  exits(KVM_EXIT_HYPERCALL);
  CHECK(run->hypercall.nr == MAP_GPA_RANGE && run->hypercall.args[0] == gpa);
  CHECK(run->hypercall.args[1] == pages && run->hypercall.args[2] == attributes);
  // A VMM that never writes it must succeed.
  CHECK(run->hypercall.ret == 0);
  run->hypercall.ret = answer;
}

static void tdx_calls(void) {
  struct tdx_exit *call = data();
  exits(EXIT_TDX);
  CHECK(call->flags == 0 && call->nr == 0x10002 && call->quote.gpa == 0x1000);
  // Preset for a VMM that knows nothing of it: TDVMCALL_STATUS_SUBFUNC_UNSUPPORTED.
  CHECK(call->quote.size == 8192 && call->quote.ret == 0x8000000000000003);
  call->quote.ret = 0;
  exits(EXIT_TDX);
  CHECK(call->flags == 0 && call->nr == 0x10000 && call->info.leaf == 1 && call->info.ret == 0);
  call->info.r11 = 2;
  call->info.r12 = call->info.r13 = call->info.r14 = 0;
  exits(EXIT_TDX);
  CHECK(call->flags == 0 && call->nr == 0x10004 && call->notify.vector == 0x40);
  CHECK(call->notify.ret == 0x8000000000000003);
  call->notify.ret = 0;
}

static void msrs(void) {
  exits(KVM_EXIT_X86_RDMSR);
  CHECK(run->msr.index == 0x12345 && run->msr.reason == KVM_MSR_EXIT_REASON_INVAL);
  run->msr.data = 9;
  run->msr.error = 0;
  exits(KVM_EXIT_X86_WRMSR);
  CHECK(run->msr.index == 0x12345 && run->msr.data == 7);
  run->msr.error = 1;
}

static void *kick(void *thread) {
  usleep(20000);
  CHECK(pthread_kill(*(pthread_t *)thread, SIGUSR1) == 0);
  return NULL;
}

static void on_kick(int signal) {
  (void)signal;
  run->immediate_exit = 1;
}

// HLT stays in the kernel; only a signal gets the vCPU out, and only an interrupt wakes it.
static void halts(void) {
  struct sigaction action = {.sa_handler = on_kick};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  pthread_t self = pthread_self(), kicker;
  CHECK(pthread_create(&kicker, NULL, kick, &self) == 0);
  FAILS(ioctl(td.vcpu[0], KVM_RUN, 0), EINTR);
  CHECK(pthread_join(kicker, NULL) == 0 && run->immediate_exit == 1);
  run->immediate_exit = 0;
  struct kvm_mp_state runnable = {.mp_state = KVM_MP_STATE_RUNNABLE};
  CHECK(ioctl(td.vcpu[0], KVM_SET_MP_STATE, &runnable) == 0);
}

static void odd_exits(void) {
  exits(EXIT_NOTIFY);
  exits(KVM_EXIT_X86_BUS_LOCK);
  CHECK(run->flags & KVM_RUN_X86_BUS_LOCK);
  exits(KVM_EXIT_EXCEPTION);
  CHECK(run->ex.exception == 14);
  exits(KVM_EXIT_FAIL_ENTRY);
  CHECK(run->fail_entry.hardware_entry_failure_reason == 0x80000021);
  exits(KVM_EXIT_INTERNAL_ERROR);
  CHECK(run->internal.suberror == KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON);
  CHECK(run->internal.ndata == 2 && (uint32_t)run->internal.data[0] == 3);
}

// struct kvm_run's system_event, whose data came after Linux 5.19.
struct system_event { uint32_t type, ndata; uint64_t data[16]; };

static void ends(void) {
  exits(KVM_EXIT_SYSTEM_EVENT);
  struct system_event *event = data();
  CHECK(event->type == EVENT_TDX_FATAL && event->ndata == 16 && event->data[12] == 3);
  CHECK(memcmp(&event->data[14], "out of l", 8) == 0 && memcmp(&event->data[15], "uck\0", 4) == 0);
  exits(KVM_EXIT_SHUTDOWN);
}

int main(void) {
  td_notify = 3;  // enabled, and for user space
  td = td_ready(1);
  run = td.run[0];
  CHECK(enable(td.vm, CAP_EXIT_HYPERCALL, 1 << MAP_GPA_RANGE) == 0);
  CHECK(enable(td.vm, CAP_USER_SPACE_MSR, KVM_MSR_EXIT_REASON_INVAL) == 0);
  attributes(0x5000, 0);
  ports();
  mmio();
  map(0x100000, 512, 0, 0);
  map(0x300000, 256, 0, 0);
  map(0x100000, 1, 0x10, EAGAIN);
  map(0x100000, 1, 0x10, 0);
  tdx_calls();
  msrs();
  faults(0x5000, PRIVATE);
  attributes(0x5000, PRIVATE);
  faults(0x6000, 0);
  attributes(0x6000, 0);
  odd_exits();
  halts();
  ends();
  td_close(&td);
  puts("ok");
  return 0;
}
