#pragma once

#include <cstddef>
#include <cstdint>

#define GGML_API extern "C" __attribute__((visibility("default")))

// Values in a quantized block.
static const int GGML_BLOCK = 32;

// 32 values of one byte with a common factor.
struct block_q8_0 {
    float  d;
    int8_t qs[GGML_BLOCK];
};

// 32 values of four bits with a common factor; value i is in the low half of byte i, value i + 16 in its high half.
struct block_q4_0 {
    float   d;
    uint8_t qs[GGML_BLOCK / 2];
};

GGML_API const char * ggml_version(void);
GGML_API const char * ggml_commit(void);

// Quantizes n values, a multiple of GGML_BLOCK, into n / GGML_BLOCK blocks.
GGML_API void ggml_quantize_q8_0(const float * values, block_q8_0 * blocks, size_t n);
GGML_API void ggml_quantize_q4_0(const float * values, block_q4_0 * blocks, size_t n);

// The name of the source file goes into the library, as in llama.cpp: a build that does not map it leaks its own folder.
#define GGML_ASSERT(x)                              \
    do {                                            \
        if (!(x)) {                                 \
            ggml_abort(__FILE__, __LINE__, #x);     \
        }                                           \
    } while (0)

GGML_API void ggml_abort(const char * file, int line, const char * what) __attribute__((noreturn));

// Writes to standard error when MINILLAMA_VERBOSE is set.
GGML_API void ggml_log(const char * format, ...) __attribute__((format(printf, 1, 2)));
