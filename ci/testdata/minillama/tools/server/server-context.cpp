#include "server-context.h"

#include "llama.h"
#include "mtmd.h"

#include <cstdio>

std::string server_greeting() {
    const std::string version = llama_version();
    char id[17];
    snprintf(id, sizeof id, "%016llx", (unsigned long long) mtmd_image_id(version.data(), version.size()));
    return "minillama " + version + " " + id;
}
