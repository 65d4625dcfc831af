#include "common.h"
#include "server-context.h"

#include <cstdio>

int llama_cli(int argc, char ** argv);

int llama_cli(int argc, char ** argv) {
    const common_params params = common_params_parse(argc, argv, "  reads a model and computes one dot product");
    printf("%s\n", server_greeting().c_str());
    return common_run(params, 256);
}
