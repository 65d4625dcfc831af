#include "common.cuh"

static __global__ void scale_f32(float * x, float factor, size_t n) {
    const size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (i < n) {
        x[i] *= factor;
    }
}

void ggml_cuda_scale(float * x, float factor, size_t n, cudaStream_t stream) {
    scale_f32<<<unsigned((n + 255) / 256), 256, 0, stream>>>(x, factor, n);
}
