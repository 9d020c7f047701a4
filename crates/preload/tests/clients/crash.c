// A VMM that crashes. It goes through a null pointer, unless it is told to be sent the signal.
#include "check.h"

static void on_fault(int signal) {
  (void)signal;
  puts("its own handler");
  fflush(stdout);
  _exit(3);
}

int main(int count, char **words) {
  const char *how = count > 1 ? words[1] : "";
  if (strcmp(how, "handled") == 0) CHECK(signal(SIGSEGV, on_fault) != SIG_ERR);
  int kvm = open("/dev/kvm", O_RDWR);
  CHECK(kvm >= 0 && ioctl(kvm, KVM_GET_API_VERSION, 0) == 12);
  if (strcmp(how, "sent") == 0) CHECK(kill(getpid(), SIGSEGV) == 0);
  volatile char *null = (volatile char *)1;
  *null = 1;
  return 0;
}
