#include "common.h"

int llama_bench(int argc, char ** argv);

int llama_bench(int argc, char ** argv) {
    const common_params params = common_params_parse(argc, argv, "  computes a long dot product");
    return common_run(params, 1 << 20);
}
