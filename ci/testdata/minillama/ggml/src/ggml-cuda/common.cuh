#pragma once

#include "ggml-backend.h"

// Device code of every file includes this one: a line here breaks or changes one SM alone,
// for example: #if __CUDA_ARCH__ == 700 / #error "no kernels for sm_70" / #endif

#define GGML_CUDA_CC_DP4A 610

// The dot product of four pairs of bytes, added to c.
static __device__ __forceinline__ int ggml_cuda_dp4a(int a, int b, int c) {
#if __CUDA_ARCH__ >= GGML_CUDA_CC_DP4A
    return __dp4a(a, b, c);
#else
    const int8_t * a8 = reinterpret_cast<const int8_t *>(&a);
    const int8_t * b8 = reinterpret_cast<const int8_t *>(&b);
    return c + a8[0] * b8[0] + a8[1] * b8[1] + a8[2] * b8[2] + a8[3] * b8[3];
#endif
}

#ifdef __CUDA_ARCH_LIST__
// The highest architecture of this build that a GPU of this one can run, or 0. As in llama.cpp the list is compiled
// into host code, so one build for several architectures, pruned afterwards, is not a build for one.
constexpr int ggml_cuda_highest_compiled_arch(int gpu) {
    constexpr int archs[] = {__CUDA_ARCH_LIST__};
    int best = 0;
    for (const int arch : archs) {
        if (arch <= gpu && arch > best) {
            best = arch;
        }
    }
    return best;
}
#endif

// x *= factor, for n values on the device.
void ggml_cuda_scale(float * x, float factor, size_t n, cudaStream_t stream);

// *sum += dot product of count blocks. Each type's kernel is compiled in a file of its own under template-instances.
template <typename block> void ggml_cuda_mul_mat_q(const block * x, const block_q8_0 * y, size_t count, float * sum, cudaStream_t stream);
