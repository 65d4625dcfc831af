#include "llama.h"

#include "ggml-backend.h"
#include "llama-version.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

const char * llama_version(void) {
    return LLAMA_VERSION;
}

std::string llama_model_read(const char * path, llama_model_info * info) {
    FILE * file = fopen(path, "rb");
    if (!file) {
        return std::string("opening ") + path + ": " + strerror(errno);
    }
    char magic[4] = {};
    const bool whole = fread(magic, sizeof magic, 1, file) == 1 &&
                       fread(&info->version, sizeof info->version, 1, file) == 1 &&
                       fread(&info->tensors, sizeof info->tensors, 1, file) == 1 &&
                       fread(&info->keys, sizeof info->keys, 1, file) == 1;
    fclose(file);
    if (!whole || memcmp(magic, "GGUF", sizeof magic) != 0) {
        return std::string(path) + " is not a GGUF file";
    }
    ggml_log("read %s: GGUF version %u\n", path, info->version);
    return "";
}
