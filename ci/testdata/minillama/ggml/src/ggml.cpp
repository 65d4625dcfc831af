#include "ggml.h"

#include "ggml-version.h"

#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

/*
 * Copyright (c) 2026 The author of a version function
 *
 * Permission is hereby granted to read this notice.
 */
const char * ggml_version(void) {
    return GGML_VERSION;
}

const char * ggml_commit(void) {
    return GGML_COMMIT;
}

void ggml_abort(const char * file, int line, const char * what) {
    fprintf(stderr, "%s:%d: GGML_ASSERT(%s) failed\n", file, line, what);
    abort();
}

void ggml_log(const char * format, ...) {
    if (!getenv("MINILLAMA_VERBOSE")) {
        return;
    }
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
}

static float largest(const float * values) {
    float most = 0;
    for (int i = 0; i < GGML_BLOCK; ++i) {
        most = fmaxf(most, fabsf(values[i]));
    }
    return most;
}

void ggml_quantize_q8_0(const float * values, block_q8_0 * blocks, size_t n) {
    GGML_ASSERT(n % GGML_BLOCK == 0);
    const long count = long(n / GGML_BLOCK);
#pragma omp parallel for
    for (long b = 0; b < count; ++b) {
        const float * block = values + b * GGML_BLOCK;
        const float   d     = largest(block) / 127;
        blocks[b].d = d;
        for (int i = 0; i < GGML_BLOCK; ++i) {
            blocks[b].qs[i] = d > 0 ? int8_t(lroundf(block[i] / d)) : 0;
        }
    }
}

void ggml_quantize_q4_0(const float * values, block_q4_0 * blocks, size_t n) {
    GGML_ASSERT(n % GGML_BLOCK == 0);
    const long count = long(n / GGML_BLOCK);
#pragma omp parallel for
    for (long b = 0; b < count; ++b) {
        const float * block = values + b * GGML_BLOCK;
        const float   d     = largest(block) / 7;
        blocks[b].d = d;
        for (int i = 0; i < GGML_BLOCK / 2; ++i) {
            const int low  = d > 0 ? int(lroundf(block[i] / d)) + 8 : 8;
            const int high = d > 0 ? int(lroundf(block[i + GGML_BLOCK / 2] / d)) + 8 : 8;
            blocks[b].qs[i] = uint8_t(low | high << 4);
        }
    }
}
