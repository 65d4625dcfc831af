// The CUDA backend of a llama.cpp that is tested without a GPU: llama.cpp's own scale kernel, and a registry with no device.
// Everything else of ggml-cuda takes most of an hour to compile.
#include "scale.cuh"

#include "ggml-backend-impl.h"

const ggml_cuda_device_info & ggml_cuda_info() {
    static const ggml_cuda_device_info none = {};
    return none;
}

void ggml_cuda_error(const char * stmt, const char * func, const char * file, int line, const char * msg) {
    GGML_ABORT("%s in %s, %s:%d: %s", stmt, func, file, line, msg);
}

void ggml_cuda_set_device(int device) {
    CUDA_CHECK(cudaSetDevice(device));
}

int ggml_cuda_get_device() {
    int device = 0;
    CUDA_CHECK(cudaGetDevice(&device));
    return device;
}

static ggml_backend_reg_t registry() {
    static ggml_backend_reg reg = {
        /* .api_version = */ GGML_BACKEND_API_VERSION,
        /* .iface       = */ {
            /* .get_name         = */ [](ggml_backend_reg_t) { return "CUDA"; },
            /* .get_device_count = */ [](ggml_backend_reg_t) { return size_t(0); },
            /* .get_device       = */ [](ggml_backend_reg_t, size_t) { return ggml_backend_dev_t(nullptr); },
            /* .get_proc_address = */ nullptr,
        },
        /* .context     = */ nullptr,
    };
    return &reg;
}

GGML_BACKEND_DL_IMPL(registry)
