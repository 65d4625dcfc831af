#pragma once

#include "common.cuh"

static __device__ __forceinline__ int load_int(const void * bytes, int index) {
    int value;
    memcpy(&value, static_cast<const char *>(bytes) + 4 * index, sizeof value);
    return value;
}

static __device__ __forceinline__ int block_dot(const block_q8_0 & x, const block_q8_0 & y) {
    int dot = 0;
#pragma unroll
    for (int i = 0; i < GGML_BLOCK / 4; ++i) {
        dot = ggml_cuda_dp4a(load_int(x.qs, i), load_int(y.qs, i), dot);
    }
    return dot;
}

static __device__ __forceinline__ int block_dot(const block_q4_0 & x, const block_q8_0 & y) {
    int dot = 0;
    int sum = 0;
#pragma unroll
    for (int i = 0; i < GGML_BLOCK / 8; ++i) {
        const int packed = load_int(x.qs, i);
        const int low    = load_int(y.qs, i);
        const int high   = load_int(y.qs, i + GGML_BLOCK / 8);
        dot = ggml_cuda_dp4a(packed & 0x0f0f0f0f, low, dot);
        dot = ggml_cuda_dp4a(packed >> 4 & 0x0f0f0f0f, high, dot);
        sum = ggml_cuda_dp4a(0x01010101, low, sum);
        sum = ggml_cuda_dp4a(0x01010101, high, sum);
    }
    return dot - 8 * sum;
}

template <typename block>
static __global__ void mul_mat_q(const block * x, const block_q8_0 * y, size_t count, float * sum) {
    float part = 0;
    for (size_t i = size_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += size_t(gridDim.x) * blockDim.x) {
        part += x[i].d * y[i].d * float(block_dot(x[i], y[i]));
    }
#pragma unroll
    for (int lane = 16; lane > 0; lane /= 2) {
        part += __shfl_down_sync(0xffffffff, part, lane);
    }
    if (threadIdx.x % 32 == 0) {
        atomicAdd(sum, part);
    }
}

#define DECL_MMQ_CASE(block)                                                                                             \
    template <>                                                                                                          \
    void ggml_cuda_mul_mat_q<block>(const block * x, const block_q8_0 * y, size_t count, float * sum, cudaStream_t s) {  \
        mul_mat_q<block><<<32, 256, 0, s>>>(x, y, count, sum);                                                           \
    }
