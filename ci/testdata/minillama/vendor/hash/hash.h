#pragma once

#include <cstddef>
#include <cstdint>

// FNV-1a over size bytes.
uint64_t vendor_hash(const void * data, size_t size);
