#include "ggml-backend.h"

#include <unistd.h>

#include <cstdlib>

static bool cpu_vec_dot(const ggml_backend_device *, const float * x, const float * y, size_t n, float * result) {
    GGML_ASSERT(n % GGML_BLOCK == 0);
    const long count = long(n / GGML_BLOCK);
    auto * a = static_cast<block_q8_0 *>(malloc(size_t(count) * sizeof(block_q8_0)));
    auto * b = static_cast<block_q8_0 *>(malloc(size_t(count) * sizeof(block_q8_0)));
    if (!a || !b) {
        free(a);
        free(b);
        return false;
    }
    ggml_quantize_q8_0(x, a, n);
    ggml_quantize_q8_0(y, b, n);
    double sum = 0;
#pragma omp parallel for reduction(+ : sum)
    for (long block = 0; block < count; ++block) {
        int dot = 0;
        for (int i = 0; i < GGML_BLOCK; ++i) {
            dot += a[block].qs[i] * b[block].qs[i];
        }
        sum += double(a[block].d) * b[block].d * dot;
    }
    free(a);
    free(b);
    *result = float(sum);
    return true;
}

static const ggml_backend_reg * cpu_reg() {
    static ggml_backend_device device = {GGML_BACKEND_DEVICE_TYPE_CPU, "CPU", "x86-64", 0, 0, 0, cpu_vec_dot};
    device.memory_total = size_t(sysconf(_SC_PHYS_PAGES)) * size_t(sysconf(_SC_PAGESIZE));
    device.memory_free  = size_t(sysconf(_SC_AVPHYS_PAGES)) * size_t(sysconf(_SC_PAGESIZE));
    static const ggml_backend_reg reg = {GGML_BACKEND_API_VERSION, "CPU", &device, 1};
    return &reg;
}

GGML_BACKEND_DL_IMPL(cpu_reg)
