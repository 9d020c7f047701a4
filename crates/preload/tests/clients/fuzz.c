// Arbitrary ioctls with real pointers, by threads that share descriptors and close them under way.
//
// fuzz [CALLS [THREADS [SEED]]]. Every pointer to memory that is not there must make a call fail; nothing
// may crash; and all that is left at the end are the descriptors that were there before.
#include "td.h"
#include <dirent.h>
#include <time.h>

#define SLOTS 24
#define MAX_THREADS 16
#define PAGE 4096

static int fds[SLOTS];
static pthread_t threads[MAX_THREADS];
static long calls = 40000;
static int count = 4;
static uint64_t seed = 1;
static volatile int over;
static long faulted, made, succeeded;

struct dice { uint64_t state; };

static uint64_t word(struct dice *d) {
  uint64_t z = d->state += 0x9e3779b97f4a7c15;
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
  z = (z ^ z >> 27) * 0x94d049bb133111eb;
  return z ^ z >> 31;
}

static uint64_t wild(struct dice *d) {
  switch (word(d) % 7) {
    case 0: return 0;
    case 1: return ~0ull;
    case 2: return 1ull << word(d) % 64;
    case 3: return word(d) & 7;
    case 4: return word(d) & 0xff;
    case 5: return (word(d) & 63) << 12;
    default: return word(d);
  }
}

// Requests of /dev/kvm, VMs and vCPUs; their arguments' sizes are in them.
static const uint32_t requests[] = {
    KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_CHECK_EXTENSION, KVM_GET_VCPU_MMAP_SIZE,
    KVM_GET_MSR_INDEX_LIST, KVM_GET_SUPPORTED_CPUID, KVM_GET_MSRS, KVM_CREATE_VCPU,
    KVM_SET_USER_MEMORY_REGION, KVM_SET_TSS_ADDR, KVM_SET_IDENTITY_MAP_ADDR, KVM_CREATE_IRQCHIP,
    KVM_IRQ_LINE_STATUS, KVM_SET_GSI_ROUTING, KVM_IRQFD, KVM_IOEVENTFD, KVM_SIGNAL_MSI, KVM_GET_CLOCK,
    KVM_SET_CLOCK, KVM_ENABLE_CAP, KVM_RUN, KVM_GET_REGS, KVM_SET_REGS, KVM_GET_SREGS, KVM_SET_MSRS,
    KVM_SET_CPUID2, KVM_GET_CPUID2, KVM_GET_LAPIC, KVM_SET_LAPIC,
    KVM_GET_MP_STATE, KVM_SET_MP_STATE, KVM_GET_VCPU_EVENTS, KVM_GET_XSAVE, KVM_SET_TSC_KHZ,
    KVM_GET_TSC_KHZ, KVM_SMI, KVM_NMI, KVM_TPR_ACCESS_REPORTING, KVM_SET_VAPIC_ADDR, KVM_X86_SETUP_MCE,
    KVM_GET_DEVICE_ATTR, KVM_CREATE_DEVICE, KVM_X86_SET_MSR_FILTER, KVM_GET_STATS_FD,
    KVM_KVMCLOCK_CTRL, KVM_SET_ONE_REG, KVM_GET_DIRTY_LOG, MEMORY_ENCRYPT_OP, SET_MEMORY_ATTRIBUTES,
    CREATE_GUEST_MEMFD, SET_USER_MEMORY_REGION2};
#define REQUESTS (sizeof requests / sizeof *requests)

struct arena {
  uint8_t *mapped;     // two pages, and nothing behind them
  uint8_t *read_only;  // one page
  uint8_t *nowhere;    // was mapped once
};

static struct arena arena_new(void) {
  uint8_t *at = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(at != MAP_FAILED);
  CHECK(mprotect(at + 2 * PAGE, PAGE, PROT_NONE) == 0 && mprotect(at + 3 * PAGE, PAGE, PROT_READ) == 0);
  return (struct arena){at, at + 3 * PAGE, at + 2 * PAGE};
}

static void arena_free(struct arena *a) { CHECK(munmap(a->mapped, 4 * PAGE) == 0); }

// A descriptor that comes takes a slot; the one that was there is closed, whoever uses it.
static void keep(struct dice *d, int fd) {
  if (fd < 0) return;
  int old = __atomic_exchange_n(&fds[word(d) % SLOTS], fd, __ATOMIC_SEQ_CST);
  if (old >= 0) close(old);
}

static int creates(uint32_t request) {
  return request == KVM_CREATE_VM || request == KVM_CREATE_VCPU || request == CREATE_GUEST_MEMFD ||
         request == KVM_GET_STATS_FD;
}

static void call(struct dice *d, int fd, uint32_t request, uintptr_t arg, int nowhere) {
  int done = ioctl(fd, request, arg);
  int error = errno;
  __atomic_add_fetch(&made, 1, __ATOMIC_RELAXED);
  if (done >= 0) __atomic_add_fetch(&succeeded, 1, __ATOMIC_RELAXED);
  if (done < 0 && error == EFAULT) __atomic_add_fetch(&faulted, 1, __ATOMIC_RELAXED);
  if (nowhere && done >= 0 && request >> 16 & 0x3fff) {
    fprintf(stderr, "request %#x succeeded with a pointer to nothing\n", request);
    _exit(1);
  }
  if (done < 0) return;
  if (creates(request)) keep(d, done);
  // What KVM_CREATE_DEVICE and the like put into a structure is not followed: they fail for a TD.
}

static void any(struct dice *d, struct arena *a) {
  int fd = __atomic_load_n(&fds[word(d) % SLOTS], __ATOMIC_SEQ_CST);
  uint32_t request = requests[word(d) % REQUESTS];
  if (word(d) % 16 == 0) request ^= 1u << word(d) % 16;
  // A mask would keep the kicks from a vCPU that sleeps.
  if ((request & 0xff) == 0x8b) return;
  uint32_t size = request >> 16 & 0x3fff;
  uint8_t *at = a->mapped + word(d) % 64 * 8;
  for (int i = 0; i < 64; i++) ((uint64_t *)at)[i] = wild(d);
  switch (word(d) % 6) {
    case 0: return call(d, fd, request, (uintptr_t)a->nowhere + word(d) % 64, 1);
    case 1: return call(d, fd, request, (uintptr_t)a->nowhere - 1 - (size ? word(d) % size : 0), 0);
    case 2: return call(d, fd, request, (uintptr_t)a->read_only + word(d) % 64, 0);
    case 3: return call(d, fd, request, wild(d), 0);
    default:
      if (word(d) % 3 == 0) {
        // A command, with data somewhere.
        uint64_t *head = (uint64_t *)at;
        head[0] = word(d) % 7 | (word(d) % 3) << 32;
        head[1] = word(d) % 4 ? (uintptr_t)a->mapped + 1024 : (uintptr_t)a->nowhere - 8;
        head[2] = 0;
      }
      return call(d, fd, request, (uintptr_t)at, 0);
  }
}

// A whole TD, whose descriptors then lie around.
static void launch(struct dice *d) {
  sigset_t kicks;
  sigemptyset(&kicks);
  sigaddset(&kicks, SIGUSR1);
  CHECK(pthread_sigmask(SIG_BLOCK, &kicks, NULL) == 0);
  struct td td = td_ready(1 + word(d) % 2);
  for (int i = 0; i < td.vcpus; i++) {
    if (word(d) % 2) td.run[i]->immediate_exit = 1;
    CHECK(munmap(td.run[i], 12288) == 0);
    keep(d, td.vcpu[i]);
  }
  keep(d, td.gmem);
  keep(d, td.vm);
  keep(d, td.kvm);
  CHECK(pthread_sigmask(SIG_UNBLOCK, &kicks, NULL) == 0);
}

static void *worker(void *number) {
  struct dice d = {seed * 1000003 + (uintptr_t)number};
  struct arena arena = arena_new();
  for (long i = 0; i < calls; i++) {
    uint64_t what = word(&d) % 1000;
    if (what < 8) {
      keep(&d, open("/dev/kvm", O_RDWR | O_CLOEXEC));
    } else if (what < 10 && count == 1) {
      launch(&d);
    } else if (what < 20) {
      int old = __atomic_exchange_n(&fds[word(&d) % SLOTS], -1, __ATOMIC_SEQ_CST);
      if (old >= 0) close(old);
    } else if (what == 20) {
      arena_free(&arena);
      arena = arena_new();
    } else {
      any(&d, &arena);
    }
  }
  arena_free(&arena);
  return NULL;
}

static void on_kick(int signal) { (void)signal; }

// Gets vCPUs out that halt.
static void *kicker(void *unused) {
  (void)unused;
  while (!over) {
    usleep(2000);
    for (int i = 0; i < count && !over; i++) pthread_kill(threads[i], SIGUSR1);
  }
  return NULL;
}

static int descriptors(void) {
  int found = 0;
  DIR *dir = opendir("/proc/self/fd");
  CHECK(dir != NULL);
  while (readdir(dir)) found++;
  closedir(dir);
  return found;
}

int main(int argc, char **argv) {
  if (argc > 1) calls = atol(argv[1]);
  if (argc > 2) count = atoi(argv[2]);
  if (argc > 3) seed = strtoull(argv[3], NULL, 0);
  CHECK(calls > 0 && count > 0 && count <= MAX_THREADS);
  struct sigaction action = {.sa_handler = on_kick};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  struct dice d = {seed};
  for (int i = 0; i < SLOTS; i++) fds[i] = -1;
  // The library opens what it needs with the first descriptor.
  int first = open("/dev/kvm", O_RDWR | O_CLOEXEC);
  CHECK(first >= 0 && close(first) == 0);
  int before = descriptors();
  for (int i = 0; i < 3; i++) launch(&d);
  for (uintptr_t i = 0; i < (uintptr_t)count; i++)
    CHECK(pthread_create(&threads[i], NULL, worker, (void *)i) == 0);
  pthread_t kicks;
  CHECK(pthread_create(&kicks, NULL, kicker, NULL) == 0);
  for (int i = 0; i < count; i++) CHECK(pthread_join(threads[i], NULL) == 0);
  over = 1;
  CHECK(pthread_join(kicks, NULL) == 0);
  for (int i = 0; i < SLOTS; i++)
    if (fds[i] >= 0) close(fds[i]);
  int after = descriptors();
  if (after != before) fprintf(stderr, "%d descriptors, and %d before\n", after, before);
  CHECK(after == before);
  CHECK(faulted > 0 && succeeded > 0);
  fprintf(stderr, "%ld ioctls: %ld succeeded, %ld EFAULT\n", made, succeeded, faulted);
  puts("ok");
  return 0;
}
