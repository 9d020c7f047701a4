// KVM_IRQFD and KVM_IOEVENTFD.
#include "check.h"
#include <sys/eventfd.h>

static int irqfd(int vm, int fd, uint32_t gsi, uint32_t flags) {
  struct kvm_irqfd args = {.fd = fd, .gsi = gsi, .flags = flags};
  return ioctl(vm, KVM_IRQFD, &args);
}

static int io(int vm, int fd, uint64_t addr, uint32_t len, uint32_t flags, uint64_t match) {
  struct kvm_ioeventfd args = {.fd = fd, .addr = addr, .len = len, .flags = flags, .datamatch = match};
  return ioctl(vm, KVM_IOEVENTFD, &args);
}

int main(void) {
  int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0);
  int event = eventfd(0, 0), copy = dup(event), other = eventfd(0, 0);
  CHECK(kvm >= 0 && vm >= 0 && event >= 0 && copy >= 0 && other >= 0);
  FAILS(irqfd(vm, event, 5, 0), EINVAL);
  struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
  CHECK(ioctl(vm, KVM_ENABLE_CAP, &split) == 0);
  FAILS(irqfd(vm, event, 5, 4), EINVAL);
  FAILS(irqfd(vm, 999, 5, 0), EBADF);
  FAILS(irqfd(vm, kvm, 5, 0), EINVAL);
  FAILS(irqfd(vm, event, 5, KVM_IRQFD_FLAG_RESAMPLE), EINVAL);
  CHECK(irqfd(vm, event, 5, 0) == 0);
  FAILS(irqfd(vm, copy, 6, 0), EBUSY);
  CHECK(irqfd(vm, other, 5, 0) == 0);
  CHECK(irqfd(vm, copy, 6, KVM_IRQFD_FLAG_DEASSIGN) == 0);
  FAILS(irqfd(vm, event, 5, 0), EBUSY);
  CHECK(irqfd(vm, copy, 5, KVM_IRQFD_FLAG_DEASSIGN) == 0);
  CHECK(irqfd(vm, event, 7, 0) == 0);

  // An eventfd wakes one irqfd in whatever VM, until it or the VM is closed.
  int second = ioctl(kvm, KVM_CREATE_VM, 0), third = eventfd(0, 0);
  CHECK(second >= 0 && ioctl(second, KVM_ENABLE_CAP, &split) == 0);
  FAILS(irqfd(second, event, 1, 0), EBUSY);
  CHECK(irqfd(second, event, 1, KVM_IRQFD_FLAG_DEASSIGN) == 0);
  FAILS(irqfd(second, copy, 1, 0), EBUSY);
  CHECK(irqfd(second, third, 1, 0) == 0);
  FAILS(irqfd(vm, third, 1, 0), EBUSY);
  CHECK(close(second) == 0 && irqfd(vm, third, 1, 0) == 0);
  for (int i = 0; i < 100; i++) {
    CHECK(close(third) == 0);
    third = eventfd(0, 0);
    CHECK(irqfd(vm, third, 1, 0) == 0);
  }

  FAILS(io(vm, event, 0x1000, 3, 0, 0), EINVAL);
  FAILS(io(vm, event, -1ul, 2, 0, 0), EINVAL);
  FAILS(io(vm, event, 0x1000, 4, 1 << 10, 0), EINVAL);
  FAILS(io(vm, event, 0x1000, 0, KVM_IOEVENTFD_FLAG_DATAMATCH, 0), EINVAL);
  FAILS(io(vm, 999, 0x1000, 4, 0, 0), EBADF);
  FAILS(io(vm, vm, 0x1000, 4, 0, 0), EINVAL);
  CHECK(io(vm, event, 0x1000, 4, KVM_IOEVENTFD_FLAG_DATAMATCH, 1) == 0);
  CHECK(io(vm, event, 0x1000, 4, KVM_IOEVENTFD_FLAG_DATAMATCH, 2) == 0);
  FAILS(io(vm, other, 0x1000, 4, KVM_IOEVENTFD_FLAG_DATAMATCH, 2), EEXIST);
  FAILS(io(vm, other, 0x1000, 4, 0, 0), EEXIST);
  CHECK(io(vm, other, 0x1000, 4, KVM_IOEVENTFD_FLAG_PIO, 0) == 0);
  FAILS(io(vm, other, 0x1000, 4, KVM_IOEVENTFD_FLAG_DEASSIGN, 0), ENOENT);
  uint32_t off = KVM_IOEVENTFD_FLAG_DEASSIGN | KVM_IOEVENTFD_FLAG_DATAMATCH;
  FAILS(io(vm, other, 0x1000, 4, off, 2), ENOENT);
  CHECK(io(vm, copy, 0x1000, 4, off, 2) == 0);
  FAILS(io(vm, copy, 0x1000, 4, off, 2), ENOENT);
  puts("ok");
  return 0;
}
