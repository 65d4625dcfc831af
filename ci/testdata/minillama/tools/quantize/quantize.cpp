#include "common.h"
#include "ggml.h"

#include <cstdio>

int llama_quantize(int argc, char ** argv);

int llama_quantize(int argc, char ** argv) {
    common_params_parse(argc, argv, "  prints the sizes of the quantized types");
    printf("q8_0: %zu bytes for %d values\n", sizeof(block_q8_0), GGML_BLOCK);
    printf("q4_0: %zu bytes for %d values\n", sizeof(block_q4_0), GGML_BLOCK);
    return 0;
}
