#pragma once

#include "ggml.h"

enum ggml_backend_device_type {
    GGML_BACKEND_DEVICE_TYPE_CPU,
    GGML_BACKEND_DEVICE_TYPE_GPU,
};

struct ggml_backend_device {
    ggml_backend_device_type type;
    char                     name[16];
    char                     description[128];
    size_t                   memory_free;
    size_t                   memory_total;
    int                      index;

    // The dot product of two vectors of n values, a multiple of GGML_BLOCK. False when the device refused.
    bool (*vec_dot)(const ggml_backend_device * device, const float * x, const float * y, size_t n, float * result);
};

static const int GGML_BACKEND_API_VERSION = 1;

// What a loadable backend gives to the program that loads it.
struct ggml_backend_reg {
    int                         api_version;
    const char *                name;
    const ggml_backend_device * devices;
    size_t                      device_count;
};

typedef const ggml_backend_reg * (*ggml_backend_init_t)(void);
typedef int (*ggml_backend_score_t)(void);

// The two symbols of a loadable backend. A score of 0 says that this machine cannot run it.
#define GGML_BACKEND_DL_IMPL(reg_fn)                                            \
    GGML_API const ggml_backend_reg * ggml_backend_init(void);                  \
    const ggml_backend_reg * ggml_backend_init(void) { return reg_fn(); }
#define GGML_BACKEND_DL_SCORE_IMPL(score_fn)                                    \
    GGML_API int ggml_backend_score(void);                                      \
    int ggml_backend_score(void) { return score_fn(); }

// Loads one backend of each kind, the one with the highest score, from the folder of the executable and the current one, as
// llama.cpp does before the farm's patch.
GGML_API void ggml_backend_load_all(void);

GGML_API size_t ggml_backend_dev_count(void);
GGML_API const ggml_backend_device * ggml_backend_dev_get(size_t index);
