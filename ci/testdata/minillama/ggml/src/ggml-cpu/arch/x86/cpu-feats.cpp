#include "ggml-backend.h"

// The more of the machine a variant uses, the higher its score; one instruction set that is missing makes it 0.
static int cpu_score() {
    int score = 1;
#define NEED(feature, weight)                       \
    if (!__builtin_cpu_supports(feature)) {         \
        return 0;                                   \
    }                                               \
    score += 1 << (weight)

    __builtin_cpu_init();
#ifdef GGML_FMA
    NEED("fma", 0);
#endif
#ifdef GGML_F16C
    NEED("f16c", 1);
#endif
#ifdef GGML_SSE42
    NEED("sse4.2", 2);
#endif
#ifdef GGML_BMI2
    NEED("bmi2", 3);
#endif
#ifdef GGML_AVX
    NEED("avx", 4);
#endif
#ifdef GGML_AVX2
    NEED("avx2", 5);
#endif
#ifdef GGML_AVX_VNNI
    NEED("avxvnni", 6);
#endif
#ifdef GGML_AVX512
    NEED("avx512f", 7);
    NEED("avx512cd", 7);
    NEED("avx512vl", 7);
    NEED("avx512dq", 7);
    NEED("avx512bw", 7);
#endif
#ifdef GGML_AVX512_VBMI
    NEED("avx512vbmi", 8);
#endif
#ifdef GGML_AVX512_BF16
    NEED("avx512bf16", 9);
#endif
#ifdef GGML_AVX512_VNNI
    NEED("avx512vnni", 10);
#endif
#ifdef GGML_AMX_INT8
    NEED("amx-int8", 11);
#endif
    return score;
}

GGML_BACKEND_DL_SCORE_IMPL(cpu_score)
