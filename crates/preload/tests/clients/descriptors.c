// Descriptors: opening by every name, duplicating, closing, forking, executing.
#include "check.h"

static int version(int fd) { return ioctl(fd, KVM_GET_API_VERSION, 0); }

static void opening(void) {
  const char *names[] = {"/dev/kvm", "//dev//kvm", "/./dev/kvm"};
  for (unsigned i = 0; i < 3; i++) {
    int fd = open(names[i], O_RDWR | O_CLOEXEC);
    CHECK(fd >= 0 && version(fd) == KVM_API_VERSION);
    CHECK(fcntl(fd, F_GETFD) == FD_CLOEXEC);
    CHECK(close(fd) == 0);
    FAILS(version(fd), EBADF);
    fd = openat(AT_FDCWD, names[i], O_RDWR);
    CHECK(fd >= 0 && version(fd) == KVM_API_VERSION && fcntl(fd, F_GETFD) == 0);
    CHECK(close(fd) == 0);
  }
  FAILS(open("/dev/kvm", O_RDWR | O_DIRECTORY), ENOTDIR);
  FAILS(open("/dev/kvm", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
}

static void looking(void) {
  struct stat st;
  CHECK(stat("/dev/kvm", &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(10, 232));
  CHECK(access("/dev/kvm", R_OK | W_OK) == 0);
  CHECK(faccessat(AT_FDCWD, "/dev/kvm", R_OK | W_OK, 0) == 0);
  struct statx stx;
  CHECK(statx(AT_FDCWD, "/dev/kvm", 0, STATX_BASIC_STATS, &stx) == 0 && stx.stx_rdev_minor == 232);
  int fd = open("/dev/kvm", O_RDWR);
  CHECK(fstat(fd, &st) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == makedev(10, 232));
  FAILS(fcntl(fd, F_GET_SEALS), EINVAL);
  CHECK(ftruncate(fd, 4096) == -1);
  CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == ENODEV);
  CHECK(close(fd) == 0);
}

static void duplicating(void) {
  int fd = open("/dev/kvm", O_RDWR);
  int copy = dup(fd), other = open("/dev/null", O_RDWR), high = fcntl(fd, F_DUPFD_CLOEXEC, 100);
  CHECK(copy > fd && high >= 100);
  CHECK(version(copy) == 12 && version(high) == 12);
  CHECK(dup2(fd, other) == other && version(other) == 12);
  CHECK(close(fd) == 0 && version(other) == 12 && version(copy) == 12);
  int null = open("/dev/null", O_RDWR);
  CHECK(dup2(null, copy) == copy);
  FAILS(version(copy), ENOTTY);
  FAILS(dup2(999, high), EBADF);
  CHECK(version(high) == 12);
  CHECK(dup2(high, high) == high && version(high) == 12);
  CHECK(close_range(high, high, 0) == 0);
  FAILS(version(high), EBADF);
  close(null), close(copy), close(other);
}

static void forking(void) {
  int fd = open("/dev/kvm", O_RDWR), vm = ioctl(fd, KVM_CREATE_VM, 0);
  CHECK(vm >= 0 && fcntl(vm, F_GETFD) == FD_CLOEXEC);
  pid_t child = fork();
  if (child == 0) {
    CHECK(version(fd) == 12);
    FAILS(ioctl(vm, KVM_CHECK_EXTENSION, KVM_CAP_IRQCHIP), EIO);
    FAILS(fallocate(vm, 0, 0, 4096), ENODEV);
    int own = ioctl(fd, KVM_CREATE_VM, 0);
    CHECK(own >= 0 && ioctl(own, KVM_CHECK_EXTENSION, 0) >= 0);
    CHECK(close(vm) == 0 && close(own) == 0 && close(fd) == 0);
    _exit(0);
  }
  int status;
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  CHECK(ioctl(vm, KVM_CHECK_EXTENSION, 0) >= 0 && version(fd) == 12);
  child = vfork();
  if (child == 0) {
    close(vm), close(fd);
    _exit(0);
  }
  CHECK(waitpid(child, &status, 0) == child && status == 0);
  CHECK(ioctl(vm, KVM_CHECK_EXTENSION, 0) >= 0 && version(fd) == 12);
  CHECK(close(vm) == 0 && close(fd) == 0);
}

/* Files of KVM have no contents, whatever lies below them. */
static void reading(void) {
  char bytes[8] = {0};
  struct iovec part = {bytes, sizeof bytes};
  int fd = open("/dev/kvm", O_RDWR), vm = ioctl(fd, KVM_CREATE_VM, 0);
  int each[] = {fd, vm};
  for (int i = 0; i < 2; i++) {
    FAILS(read(each[i], bytes, 8), EINVAL);
    FAILS(write(each[i], bytes, 8), EINVAL);
    FAILS(pread(each[i], bytes, 8, 0), EINVAL);
    FAILS(pwrite(each[i], bytes, 8, 0), EINVAL);
    FAILS(readv(each[i], &part, 1), EINVAL);
    FAILS(writev(each[i], &part, 1), EINVAL);
  }
  CHECK(close(vm) == 0 && close(fd) == 0);
}

/* Parameters of the modules are those of the machine that is worn. */
static void parameters(void) {
  char text[8] = {0};
  int fd = open("/sys/module/kvm/parameters/tdp_mmu", O_RDONLY);
  CHECK(fd >= 0 && read(fd, text, sizeof text) == 2 && strcmp(text, "Y\n") == 0);
  CHECK(read(fd, text, sizeof text) == 0 && close(fd) == 0);
  fd = openat(AT_FDCWD, "/sys/module/kvm_intel/parameters/ple_gap", O_RDONLY | O_CLOEXEC);
  CHECK(fd >= 0 && read(fd, text, sizeof text) == 4 && strcmp(text, "128\n") == 0 && close(fd) == 0);
  FAILS(open("/sys/module/kvm/parameters/tdp_mmu", O_RDWR), EACCES);
  FAILS(open("/sys/module/kvm/parameters/none", O_RDONLY), ENOENT);
  FAILS(open("/sys/module/kvm_amd/parameters/nested", O_RDONLY), ENOENT);
}

static void *churn(void *unused) {
  (void)unused;
  for (int i = 0; i < 2000; i++) {
    int fd = open("/dev/kvm", O_RDWR), copy = dup(fd);
    CHECK(fd >= 0 && copy >= 0 && version(copy) == 12);
    CHECK(close(fd) == 0 && version(copy) == 12 && close(copy) == 0);
    fd = open("/dev/null", O_RDONLY);
    FAILS(version(fd), ENOTTY);
    close(fd);
  }
  return NULL;
}

static void racing(void) {
  pthread_t threads[4];
  for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, churn, NULL) == 0);
  for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
}

int main(void) {
  opening();
  looking();
  duplicating();
  forking();
  reading();
  parameters();
  racing();
  puts("ok");
  return 0;
}
