#include "common.cuh"

#include <cublas_v2.h>
#ifndef GGML_CUDA_NO_VMM
#include <cuda.h>
#endif

#include <cmath>
#include <cstdio>
#include <cstdlib>

static const int MAX_DEVICES = 16;

// Host and device memory of one dot product, freed together.
struct dot_buffers {
    float *      x       = nullptr;
    float *      y       = nullptr;
    float *      sums    = nullptr;
    block_q8_0 * x8      = nullptr;
    block_q8_0 * y8      = nullptr;
    block_q4_0 * x4      = nullptr;
    block_q8_0 * host_x8 = nullptr;
    block_q8_0 * host_y8 = nullptr;
    block_q4_0 * host_x4 = nullptr;
    cublasHandle_t blas  = nullptr;
    cudaStream_t stream  = nullptr;

    ~dot_buffers() {
        if (blas) {
            cublasDestroy(blas);
        }
        if (stream) {
            cudaStreamDestroy(stream);
        }
        for (void * memory : {(void *) x, (void *) y, (void *) sums, (void *) x8, (void *) y8, (void *) x4}) {
            cudaFree(memory);
        }
        free(host_x8);
        free(host_y8);
        free(host_x4);
    }
};

// Four-bit blocks round each value by at most 1/14 of the largest one, and most of that cancels out in a sum.
static bool agree(float got, float eight_bits) {
    return fabsf(got - eight_bits) <= fabsf(eight_bits) / 20;
}

// Computes the dot product three ways (eight-bit kernel, four-bit kernel, cuBLAS): each covers a part of the library.
static bool cuda_vec_dot(const ggml_backend_device * device, const float * x, const float * y, size_t n, float * result) {
#define CHECK(call)                                                                                 \
    do {                                                                                            \
        const int status = int(call);                                                               \
        if (status != 0) {                                                                          \
            fprintf(stderr, "%s: %s returned %d\n", device->name, #call, status);                   \
            return false;                                                                           \
        }                                                                                           \
    } while (false)

    GGML_ASSERT(n % GGML_BLOCK == 0);
    const size_t count = n / GGML_BLOCK;
    dot_buffers  b;
    b.host_x8 = static_cast<block_q8_0 *>(malloc(count * sizeof(block_q8_0)));
    b.host_y8 = static_cast<block_q8_0 *>(malloc(count * sizeof(block_q8_0)));
    b.host_x4 = static_cast<block_q4_0 *>(malloc(count * sizeof(block_q4_0)));
    if (!b.host_x8 || !b.host_y8 || !b.host_x4) {
        return false;
    }
    ggml_quantize_q8_0(x, b.host_x8, n);
    ggml_quantize_q8_0(y, b.host_y8, n);
    ggml_quantize_q4_0(x, b.host_x4, n);

    CHECK(cudaSetDevice(device->index));
    CHECK(cudaStreamCreate(&b.stream));
    CHECK(cublasCreate(&b.blas));
    CHECK(cublasSetStream(b.blas, b.stream));
    CHECK(cudaMalloc(&b.x, n * sizeof(float)));
    CHECK(cudaMalloc(&b.y, n * sizeof(float)));
    CHECK(cudaMalloc(&b.sums, 2 * sizeof(float)));
    CHECK(cudaMalloc(&b.x8, count * sizeof(block_q8_0)));
    CHECK(cudaMalloc(&b.y8, count * sizeof(block_q8_0)));
    CHECK(cudaMalloc(&b.x4, count * sizeof(block_q4_0)));
    CHECK(cudaMemcpyAsync(b.x, x, n * sizeof(float), cudaMemcpyHostToDevice, b.stream));
    CHECK(cudaMemcpyAsync(b.y, y, n * sizeof(float), cudaMemcpyHostToDevice, b.stream));
    CHECK(cudaMemcpyAsync(b.x8, b.host_x8, count * sizeof(block_q8_0), cudaMemcpyHostToDevice, b.stream));
    CHECK(cudaMemcpyAsync(b.y8, b.host_y8, count * sizeof(block_q8_0), cudaMemcpyHostToDevice, b.stream));
    CHECK(cudaMemcpyAsync(b.x4, b.host_x4, count * sizeof(block_q4_0), cudaMemcpyHostToDevice, b.stream));
    CHECK(cudaMemsetAsync(b.sums, 0, 2 * sizeof(float), b.stream));

    ggml_cuda_mul_mat_q(b.x8, b.y8, count, b.sums, b.stream);
    CHECK(cudaGetLastError());
    ggml_cuda_mul_mat_q(b.x4, b.y8, count, b.sums + 1, b.stream);
    CHECK(cudaGetLastError());
    // Scaled by two and halved again, the vector is what it was: the scale kernel must have run on all of it.
    ggml_cuda_scale(b.x, 2, n, b.stream);
    CHECK(cudaGetLastError());
    float blas = 0;
    CHECK(cublasSdot(b.blas, int(n), b.x, 1, b.y, 1, &blas));
    blas /= 2;

    float sums[2] = {};
    CHECK(cudaMemcpyAsync(sums, b.sums, sizeof sums, cudaMemcpyDeviceToHost, b.stream));
    CHECK(cudaStreamSynchronize(b.stream));
    if (!agree(sums[1], sums[0]) || !agree(blas, sums[0])) {
        fprintf(stderr, "%s: results differ: q8_0 %f, q4_0 %f, cuBLAS %f\n", device->name, sums[0], sums[1], blas);
        return false;
    }
    *result = sums[0];
    return true;
#undef CHECK
}

static const ggml_backend_reg * cuda_reg() {
    static ggml_backend_device devices[MAX_DEVICES];
    static ggml_backend_reg    reg = {GGML_BACKEND_API_VERSION, "CUDA", devices, 0};

#ifndef GGML_CUDA_NO_VMM
    int driver = 0;
    if (cuDriverGetVersion(&driver) != CUDA_SUCCESS) {
        return &reg;
    }
#endif
    int count = 0;
    if (cudaGetDeviceCount(&count) != cudaSuccess) {
        return &reg;
    }
    for (int i = 0; i < count && i < MAX_DEVICES; ++i) {
        cudaDeviceProp properties;
        ggml_backend_device & device = devices[reg.device_count];
        if (cudaGetDeviceProperties(&properties, i) != cudaSuccess || cudaSetDevice(i) != cudaSuccess ||
            cudaMemGetInfo(&device.memory_free, &device.memory_total) != cudaSuccess) {
            continue;
        }
        const int gpu  = 100 * properties.major + 10 * properties.minor;
        const int arch = ggml_cuda_highest_compiled_arch(gpu);
        if (arch == 0) {
            ggml_log("skipping %s: nothing compiled for compute capability %d.%d\n", properties.name, properties.major, properties.minor);
            continue;
        }
        device.type    = GGML_BACKEND_DEVICE_TYPE_GPU;
        device.index   = i;
        device.vec_dot = cuda_vec_dot;
        snprintf(device.name, sizeof device.name, "CUDA%d", i);
        snprintf(device.description, sizeof device.description, "%.100s, code for %d", properties.name, arch / 10);
        reg.device_count++;
    }
    return &reg;
}

GGML_BACKEND_DL_IMPL(cuda_reg)
