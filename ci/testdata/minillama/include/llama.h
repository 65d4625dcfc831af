#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

// What the header of a GGUF file says.
struct llama_model_info {
    uint32_t version;
    uint64_t tensors;
    uint64_t keys;
};

const char * llama_version(void);

// Reads a model's header; an empty string means it is one, otherwise it says why not.
std::string llama_model_read(const char * path, llama_model_info * info);
