// A vCPU runs while every descriptor is closed: its machine lives until KVM_RUN returns.
#include "td.h"

static struct td td;

static void on_signal(int signal) { (void)signal; }

static void *run(void *nothing) {
  (void)nothing;
  CHECK(ioctl(td.vcpu[0], KVM_RUN, 0) == -1 && errno == EINTR);
  return NULL;
}

int main(void) {
  struct sigaction action = {.sa_handler = on_signal};
  CHECK(sigaction(SIGUSR1, &action, NULL) == 0);
  for (int round = 0; round < 5; round++) {
    td = td_ready(1);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, run, NULL) == 0);
    usleep(20000);
    td_close(&td);
    usleep(20000);
    CHECK(pthread_kill(thread, SIGUSR1) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
  }
  puts("ok");
}
