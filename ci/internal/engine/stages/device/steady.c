// Preloaded into the compilers of the device half, so that the same source gives the same PTX. Cubins never differed.
//
// cudafe++ writes its process id into the names of variables with internal linkage
// (_INTERNAL_<hash>_9_cumsum_cu_<hash>_19106), and PTX keeps the names of those that nothing uses. nvcc 12.4 has no option
// for that; later ones have --frandom-seed.
//
// cicc numbers registers by where its heap lies: of fattn-tile-instance-dkq256-dv256.cu of llama.cpp 0.5.0 it made nine
// texts in thirteen runs. Three things move the heap, and each alone is enough:
//   - address space randomization: cicc starts once more without it. Where an engine forbids that (Docker's seccomp
//     profile does), device.sh says so.
//   - the random name of a temporary file, in tables of strings: LLVM seeds rand for it from /dev/urandom.
//   - time: cicc's allocator, jemalloc, gives memory back after some.
#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/personality.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static int is(const char *program) { return strcmp(program_invocation_short_name, program) == 0; }

pid_t getpid(void) { return is("cudafe++") ? 1 : (pid_t) syscall(SYS_getpid); }

__attribute__((constructor)) static void start(int argc, char **argv, char **environment) {
    int now = personality(0xffffffff); // asks
    (void) argc;
    if (is("cicc") && now != -1 && !(now & ADDR_NO_RANDOMIZE) && personality(now | ADDR_NO_RANDOMIZE) != -1)
        execve("/proc/self/exe", argv, environment);
}

void srand(unsigned seed) { srandom(is("cicc") ? 1 : seed); }

static const struct timespec then = {.tv_sec = 315532800}; // 1980-01-01

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!is("cicc"))
        return (int) syscall(SYS_clock_gettime, clock, now);
    *now = then;
    return 0;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    if (!is("cicc"))
        return (int) syscall(SYS_gettimeofday, now, zone);
    now->tv_sec = then.tv_sec, now->tv_usec = 0;
    return 0;
}

time_t time(time_t *now) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    return now ? *now = at.tv_sec : at.tv_sec;
}
