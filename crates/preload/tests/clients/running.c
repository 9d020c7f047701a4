// KVM_RUN: immediate_exit, signals, masks, many vCPUs.
#include "td.h"
#include <time.h>

static volatile int handled;
static struct td td;

static void on_kick(int signal) {
  (void)signal;
  handled++;
}

static void on_kick_set(int signal) {
  (void)signal;
  handled++;
  td.run[0]->immediate_exit = 1;
}

static void handler(int signal, void (*f)(int)) {
  struct sigaction action = {.sa_handler = f, .sa_flags = SA_RESTART};
  CHECK(sigaction(signal, &action, NULL) == 0);
}

static void nap(long ns) {
  struct timespec time = {.tv_nsec = ns};
  nanosleep(&time, NULL);
}

static void immediate(void) {
  td.run[0]->immediate_exit = 1;
  FAILS(ioctl(td.vcpu[0], KVM_RUN, 0), EINTR);
  td.run[0]->immediate_exit = 0;
  FAILS(ioctl(td.vcpu[0], KVM_RUN, 1), EINVAL);
}

// A signal sent before KVM_RUN sets immediate_exit; one sent at any later moment ends the sleep.
static void *runner(void *count) {
  for (int i = 0; i < *(int *)count; i++) {
    td.run[0]->immediate_exit = 0;
    FAILS(ioctl(td.vcpu[0], KVM_RUN, 0), EINTR);
  }
  return NULL;
}

static void kicks(void) {
  handler(SIGUSR1, on_kick_set);
  int rounds = 300;
  for (int i = 0; i < rounds; i++) {
    pthread_t thread;
    int once = 1;
    handled = 0;
    CHECK(pthread_create(&thread, NULL, runner, &once) == 0);
    nap(i % 40 * 50000);
    // The thread may not be in KVM_RUN yet and clear immediate_exit after the handler ran: as any VMM,
    // we kick until it has come out.
    for (int kicked = 0; kicked < 1000; kicked++) {
      CHECK(pthread_kill(thread, SIGUSR1) == 0);
      struct timespec until;
      clock_gettime(CLOCK_REALTIME, &until);
      until.tv_nsec += 20000000;
      if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
      if (pthread_timedjoin_np(thread, NULL, &until) == 0) goto joined;
    }
    CHECK(!"the vCPU came out");
  joined:
    CHECK(handled > 0);
  }
}

// The handler has run by the time that KVM_RUN has returned, and exactly once.
static void self_kick(void) {
  handler(SIGUSR2, on_kick);
  sigset_t block, before;
  sigemptyset(&block);
  sigaddset(&block, SIGUSR2);
  CHECK(pthread_sigmask(SIG_BLOCK, &block, &before) == 0);
  handled = 0;
  td.run[0]->immediate_exit = 0;
  CHECK(pthread_kill(pthread_self(), SIGUSR2) == 0);
  // Pending and blocked: KVM_RUN does not come out for it, but for the alarm.
  handler(SIGALRM, on_kick);
  struct timespec start, end;
  clock_gettime(CLOCK_MONOTONIC, &start);
  ualarm(50000, 0);
  FAILS(ioctl(td.vcpu[0], KVM_RUN, 0), EINTR);
  clock_gettime(CLOCK_MONOTONIC, &end);
  CHECK((end.tv_sec - start.tv_sec) * 1000000 + (end.tv_nsec - start.tv_nsec) / 1000 >= 45000);
  CHECK(handled == 1);
  CHECK(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
  CHECK(handled == 2);
  // An ignored signal does not end it.
  signal(SIGUSR2, SIG_IGN);
  handled = 0;
  pthread_t thread;
  int once = 1;
  handler(SIGUSR1, on_kick_set);
  CHECK(pthread_create(&thread, NULL, runner, &once) == 0);
  nap(20000000);
  for (int i = 0; i < 3; i++) pthread_kill(thread, SIGUSR2), nap(5000000);
  CHECK(pthread_tryjoin_np(thread, NULL) == EBUSY);
  CHECK(pthread_kill(thread, SIGUSR1) == 0);
  CHECK(pthread_join(thread, NULL) == 0);
}

// With KVM_SET_SIGNAL_MASK a blocked signal ends KVM_RUN, stays pending, and no handler runs.
static void mask(void) {
  handler(SIGUSR1, on_kick);
  sigset_t block;
  sigemptyset(&block);
  sigaddset(&block, SIGUSR1);
  CHECK(pthread_sigmask(SIG_BLOCK, &block, NULL) == 0);
  struct { uint32_t len; uint64_t set; } __attribute__((packed)) arg = {.len = 8, .set = 0};
  CHECK(ioctl(td.vcpu[0], KVM_SET_SIGNAL_MASK, &arg) == 0);
  arg.len = 4;
  FAILS(ioctl(td.vcpu[0], KVM_SET_SIGNAL_MASK, &arg), EINVAL);
  handled = 0;
  CHECK(pthread_kill(pthread_self(), SIGUSR1) == 0);
  td.run[0]->immediate_exit = 0;
  FAILS(ioctl(td.vcpu[0], KVM_RUN, 0), EINTR);
  CHECK(handled == 0);
  struct timespec now = {0};
  CHECK(sigtimedwait(&block, NULL, &now) == SIGUSR1);
  CHECK(ioctl(td.vcpu[0], KVM_SET_SIGNAL_MASK, NULL) == 0);
  CHECK(pthread_sigmask(SIG_UNBLOCK, &block, NULL) == 0);
}

static void *run_vcpu(void *i) {
  FAILS(ioctl(td.vcpu[(intptr_t)i], KVM_RUN, 0), EINTR);
  return NULL;
}

static void many(void) {
  pthread_t threads[MAX_VCPUS];
  handler(SIGUSR1, on_kick);
  for (intptr_t i = 0; i < td.vcpus; i++)
    CHECK(pthread_create(&threads[i], NULL, run_vcpu, (void *)i) == 0);
  nap(50000000);
  for (int i = 0; i < td.vcpus; i++) {
    CHECK(pthread_tryjoin_np(threads[i], NULL) == EBUSY);
    CHECK(pthread_kill(threads[i], SIGUSR1) == 0);
    CHECK(pthread_join(threads[i], NULL) == 0);
  }
}

int main(void) {
  td = td_new(4);
  FAILS(ioctl(td.vcpu[0], KVM_RUN, 0), EINVAL);
  static char page[4096] __attribute__((aligned(4096)));
  CHECK(td_add(&td, page, 0, 1) == 0);
  CHECK(tdx(td.vm, FINALIZE_VM, 0, NULL) == 0);
  immediate();
  kicks();
  self_kick();
  mask();
  many();
  puts("ok");
  return 0;
}
