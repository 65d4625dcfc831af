#include "mtmd.h"

#include "hash/hash.h"

uint64_t mtmd_image_id(const void * data, size_t size) {
    return vendor_hash(data, size);
}
