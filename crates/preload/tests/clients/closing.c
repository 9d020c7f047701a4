// A vCPU runs while every descriptor is closed: its machine lives until KVM_RUN returns.
#include "td.h"

#include <sys/syscall.h>

static struct td td;
static volatile pid_t runner;

static void on_signal(int signal) { (void)signal; }

static void *run(void *nothing) {
  (void)nothing;
  runner = syscall(SYS_gettid);
  CHECK(ioctl(td.vcpu[0], KVM_RUN, 0) == -1 && errno == EINTR);
  return NULL;
}

// Waits until the thread sleeps, which it does nowhere but in KVM_RUN.
static void until_it_sleeps(void) {
  char state = 'R';
  while (state != 'S') {
    usleep(1000);
    if (runner == 0) continue;
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/stat", runner);
    FILE *stat = fopen(path, "r");
    CHECK(stat != NULL && fscanf(stat, "%*d %*s %c", &state) == 1);
    fclose(stat);
  }
}

int main(void) {
  struct sigaction action = {.sa_handler = on_signal};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  for (int round = 0; round < 5; round++) {
    td = td_ready(1);
    pthread_t thread;
    runner = 0;
    CHECK(pthread_create(&thread, NULL, run, NULL) == 0);
    until_it_sleeps();
    td_close(&td);
    usleep(20000);
    CHECK(pthread_kill(thread, SIGUSR1) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
  }
  puts("ok");
}
