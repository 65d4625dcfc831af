#pragma once

#include <cstddef>
#include <cstdint>

// A stable id for a picture's bytes.
uint64_t mtmd_image_id(const void * data, size_t size);
