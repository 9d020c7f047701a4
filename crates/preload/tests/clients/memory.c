// User memory that faults, guest_memfds, and what keeps a VM alive.
#include "td.h"


static void faults(void) {
  struct td td = td_new(1);
  char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(munmap(map + 4096, 4096) == 0);
  char *edge = map + 4096;
  FAILS(ioctl(td.vm, MEMORY_ENCRYPT_OP, NULL), EFAULT);
  FAILS(ioctl(td.vm, MEMORY_ENCRYPT_OP, (void *)0xffffffffffff8000ul), EFAULT);
  FAILS(ioctl(td.vm, MEMORY_ENCRYPT_OP, edge - 12), EFAULT);
  FAILS(ioctl(td.vm, SET_MEMORY_ATTRIBUTES, edge - 16), EFAULT);
  FAILS(ioctl(td.vm, KVM_ENABLE_CAP, edge - 100), EFAULT);
  FAILS(ioctl(td.kvm, KVM_GET_SUPPORTED_CPUID, edge), EFAULT);
  // Room for the header, none for the entries.
  uint32_t *header = (uint32_t *)(edge - 8);
  header[0] = 200, header[1] = 0;
  FAILS(ioctl(td.kvm, KVM_GET_SUPPORTED_CPUID, header), EFAULT);
  // A source that ends in the middle: what was added stays added, and the structure says how much.
  CHECK(munmap(map, 4096) == 0);
  char *pages = mmap(NULL, 3 * 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(munmap(pages + 2 * 4096, 4096) == 0);
  struct mem_region region = {.source = (uintptr_t)pages, .gpa = 0, .pages = 3};
  FAILS(tdx(td.vcpu[0], INIT_MEM_REGION, 0, &region), EFAULT);
  CHECK(region.gpa == 8192 && region.pages == 1 && region.source == (uintptr_t)pages + 8192);
  const struct mem_region *constant = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  FAILS(tdx(td.vcpu[0], INIT_MEM_REGION, 0, (void *)constant), EINVAL);
  td_close(&td);
}

static void gmem(void) {
  struct td td = td_ready(1);
  struct stat st;
  CHECK(fstat(td.gmem, &st) == 0 && st.st_size == GUEST_MEMORY);
  CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, td.gmem, 0) == MAP_FAILED && errno == ENODEV);
  FAILS(fallocate(td.gmem, 0, 0, 4096), EOPNOTSUPP);
  FAILS(fallocate(td.gmem, FALLOC_FL_KEEP_SIZE, 1, 4096), EINVAL);
  FAILS(fallocate(td.gmem, FALLOC_FL_KEEP_SIZE, GUEST_MEMORY, 4096), EINVAL);
  CHECK(fallocate(td.gmem, FALLOC_FL_KEEP_SIZE, 4096, 8192) == 0);
  CHECK(fallocate(td.gmem, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, GUEST_MEMORY) == 0);
  FAILS(fallocate(td.vm, FALLOC_FL_KEEP_SIZE, 0, 4096), ENODEV);
  FAILS(ioctl(td.gmem, KVM_GET_API_VERSION, 0), ENOTTY);
  struct create_guest_memfd create = {.size = GUEST_MEMORY, .flags = 1};
  int fd = ioctl(td.vm, CREATE_GUEST_MEMFD, &create);
  CHECK(fd >= 0);
  // One that may be mapped and is not shared has its size, whatever lies below it.
  struct statx stx;
  CHECK(fstat(fd, &st) == 0 && st.st_size == GUEST_MEMORY && st.st_blksize == 4096);
  CHECK(statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, &stx) == 0 && stx.stx_size == GUEST_MEMORY);
  CHECK(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED && errno == EINVAL);
  char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
  CHECK(map != MAP_FAILED);
  pid_t child = fork();
  if (child == 0) _exit(*(volatile char *)map);
  int status;
  CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
  CHECK(munmap(map, 4096) == 0 && close(fd) == 0);
  // What is shared from the start is user space's memory, until a hole is made in it.
  int vm = ioctl(td.kvm, KVM_CREATE_VM, 0);
  create.flags = 3;
  CHECK(vm >= 0 && (fd = ioctl(vm, CREATE_GUEST_MEMFD, &create)) >= 0);
  map = mmap(NULL, GUEST_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(map != MAP_FAILED);
  memset(map, 0xaa, 8192);
  CHECK(fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 4096) == 0);
  CHECK(map[0] == 0 && map[4095] == 0 && map[4096] == (char)0xaa);
  FAILS(madvise(map, GUEST_MEMORY, MADV_COLLAPSE), EINVAL);
  CHECK(madvise(map, 4096, MADV_WILLNEED) == 0);
  CHECK(munmap(map, GUEST_MEMORY) == 0 && close(fd) == 0 && close(vm) == 0);
  td_close(&td);
}

// Memory that is shared from the start is the file's: what is punched out reads as zeros. Statistics are
// read from where the last read ended, and keep the VM.
static void plain(void) {
  int kvm = open("/dev/kvm", O_RDWR);
  int vm = ioctl(kvm, KVM_CREATE_VM, 0);
  CHECK(vm >= 0);
  struct create_guest_memfd create = {.size = 8192, .flags = 3};
  int fd = ioctl(vm, CREATE_GUEST_MEMFD, &create);
  CHECK(fd >= 0);
  char *map = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  CHECK(map != MAP_FAILED);
  memset(map, 7, 8192);
  CHECK(fallocate(fd, FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE, 0, 4096) == 0);
  CHECK(map[0] == 0 && map[4095] == 0 && map[4096] == 7);
  CHECK(munmap(map, 8192) == 0 && close(fd) == 0);
  int stats = ioctl(vm, KVM_GET_STATS_FD, 0);
  CHECK(stats >= 0 && close(vm) == 0);
  struct kvm_stats_header header;
  char id[48];
  CHECK(read(stats, &header, sizeof header) == sizeof header && header.name_size == 48);
  CHECK(read(stats, id, sizeof id) == sizeof id && strncmp(id, "kvm-", 4) == 0);
  CHECK(pread(stats, id, 4, header.id_offset) == 4 && pread(stats, id, 4, 1 << 20) == 0);
  CHECK(lseek(stats, 0, SEEK_SET) == sizeof header + sizeof id);
  FAILS(write(stats, id, 1), EBADF);
  FAILS(read(kvm, id, 1), EINVAL);
  FAILS(ioctl(stats, KVM_GET_API_VERSION, 0), ENOTTY);
  CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, stats, 0) == MAP_FAILED && errno == ENODEV);
  CHECK(close(stats) == 0 && close(kvm) == 0);
}

// A machine has 31 HKIDs for guests, so a TD that stays alive is noticed after as many.
static void lives(void) {
  for (int i = 0; i < 40; i++) {
    struct td td = td_ready(2);
    for (int v = 0; v < 2; v++) CHECK(munmap(td.run[v], 12288) == 0);
    CHECK(close(td.vm) == 0 && close(td.gmem) == 0 && close(td.kvm) == 0);
    if (i % 2) {
      CHECK(dup2(td.kvm = open("/dev/null", O_RDWR), td.vcpu[0]) == td.vcpu[0]);
      CHECK(close(td.kvm) == 0);
    }
    CHECK(close(td.vcpu[0]) == 0 && close(td.vcpu[1]) == 0);
  }
  struct td held[40];
  int n = 0;
  // A mapping of a vCPU keeps its VM.
  for (; n < 40; n++) {
    int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, TDX_VM);
    CHECK(kvm >= 0 && vm >= 0);
    CHECK(close(vm) == 0 && close(kvm) == 0);
  }
  for (n = 0; n < 31; n++) {
    held[n] = td_new(1);
    CHECK(close(held[n].vm) == 0 && close(held[n].gmem) == 0 && close(held[n].vcpu[0]) == 0);
  }
  struct init_vm init = {0};
  int kvm = held[0].kvm, vm = ioctl(kvm, KVM_CREATE_VM, TDX_VM);
  CHECK(enable(vm, SPLIT_IRQCHIP, 24) == 0);
  init.nent = 1;
  init.entries[0].function = 0x80000008;
  init.entries[0].eax = 0x340034;
  FAILS(tdx(vm, INIT_VM, 0, &init), ENOSPC);
  CHECK(munmap(held[7].run[0], 12288) == 0);
  CHECK(tdx(vm, INIT_VM, 0, &init) == 0);
}

// The dirty ring lies behind the other pages of a vCPU, and is shared and not executed.
static void rings(void) {
  int kvm = open("/dev/kvm", O_RDWR), vm = ioctl(kvm, KVM_CREATE_VM, 0);
  CHECK(enable(vm, KVM_CAP_DIRTY_LOG_RING, 16384) == 0);
  int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
  CHECK(vcpu >= 0);
  off_t at = KVM_DIRTY_LOG_PAGE_OFFSET * 4096;
  int both = PROT_READ | PROT_WRITE;
  struct kvm_dirty_gfn *ring = mmap(NULL, 16384, both, MAP_SHARED, vcpu, at);
  CHECK(ring != MAP_FAILED && ring[1023].flags == 0);
  CHECK(mmap(NULL, 16384, both, MAP_PRIVATE, vcpu, at) == MAP_FAILED && errno == EINVAL);
  CHECK(mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, vcpu, at) == MAP_FAILED);
  CHECK(errno == EINVAL);
  void *run = mmap(NULL, 12288, both, MAP_PRIVATE, vcpu, 0);
  CHECK(run != MAP_FAILED && munmap(run, 12288) == 0);
  ring[0].flags = KVM_DIRTY_GFN_F_RESET;
  CHECK(ioctl(vm, KVM_RESET_DIRTY_RINGS, 0) == 1 && ring[0].flags == 0);
  CHECK(munmap(ring, 16384) == 0 && close(vcpu) == 0 && close(vm) == 0 && close(kvm) == 0);
}

int main(void) {
  faults();
  rings();
  gmem();
  plain();
  lives();
  puts("ok");
  return 0;
}
