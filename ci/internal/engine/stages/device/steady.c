// Preloaded into the compilers of the device half, so that the same source gives the same PTX. Cubins never differed.
//
// cudafe++ writes its process id into the names of variables with internal linkage
// (_INTERNAL_<hash>_9_cumsum_cu_<hash>_19106), and PTX keeps the names of those that nothing uses. nvcc 12.4 has no option
// for that; later ones have --frandom-seed.
//
// cicc numbers registers by where its heap lies: of fattn-tile-instance-dkq40-dv40.cu of llama.cpp 0.5.0 it makes one of
// four texts. So it starts once more without address space randomisation. Where an engine forbids that (Docker's seccomp
// profile does), device.sh says so.
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/syscall.h>
#include <unistd.h>

static int is(const char *program) { return strcmp(program_invocation_short_name, program) == 0; }

pid_t getpid(void) { return is("cudafe++") ? 1 : (pid_t) syscall(SYS_getpid); }

__attribute__((constructor)) static void start(int argc, char **argv, char **environment) {
    int now = personality(0xffffffff); // asks
    (void) argc;
    if (is("cicc") && now != -1 && !(now & ADDR_NO_RANDOMIZE) && personality(now | ADDR_NO_RANDOMIZE) != -1)
        execve("/proc/self/exe", argv, environment);
}
