#include "common.cuh"

#include <cuda/std/type_traits>

// Copyright (c) 2026 The author of a scale that is not llama.cpp's own. MIT licensed.
template <typename T> static __global__ void scale(float * x, float factor, size_t n, T) {
    const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) {
        x[i] *= factor;
    }
}

void ggml_cuda_scale(float * x, float factor, size_t n, cudaStream_t stream) {
    // A type of libcu++ in the kernel's name, as those of CUB are in the names of llama.cpp's.
    scale<<<unsigned((n + 255) / 256), 256, 0, stream>>>(x, factor, n, cuda::std::true_type{});
}
