#include "hash/hash.h"

uint64_t vendor_hash(const void * data, size_t size) {
    const auto * bytes = static_cast<const unsigned char *>(data);
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < size; ++i) {
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    }
    return hash;
}
