#include "common.h"

#include "build-info.h"
#include "ggml-backend.h"
#include "ggml.h"
#include "hash/hash.h"
#include "llama.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

static const size_t MIB = 1024 * 1024;

void common_print_available_devices() {
    ggml_backend_load_all();
    printf("Available devices:\n");
    bool none = true;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        const ggml_backend_device * device = ggml_backend_dev_get(i);
        if (device->type == GGML_BACKEND_DEVICE_TYPE_CPU) {
            continue;
        }
        none = false;
        printf("  %s: %s (%zu MiB, %zu MiB free)\n", device->name, device->description,
               device->memory_total / MIB, device->memory_free / MIB);
    }
    if (none) {
        printf("  (none)\n");
    }
}

common_params common_params_parse(int argc, char ** argv, const char * usage) {
    common_params params;
    for (int i = 1; i < argc; ++i) {
        const std::string arg = argv[i];
        const char * value = i + 1 < argc ? argv[i + 1] : nullptr;
        if (arg == "--version") {
            llama_print_build_info(llama_version());
            exit(0);
        } else if (arg == "-h" || arg == "--help") {
            printf("usage: %s [options]\n\n%s\n"
                   "  -m, --model FILE   model to read\n"
                   "  --list-devices     print list of available devices and exit\n"
                   "  --version          show version and build info\n", argv[0], usage);
            exit(0);
        } else if (arg == "--list-devices") {
            common_print_available_devices();
            exit(0);
        } else if ((arg == "-m" || arg == "--model") && value) {
            params.model = value;
            ++i;
        } else if (arg == "--host" && value) {
            params.host = value;
            ++i;
        } else if (arg == "--port" && value) {
            params.port = atoi(value);
            ++i;
        } else if ((arg == "-ngl" || arg == "-t" || arg == "-np" || arg == "-c" || arg == "-p" || arg == "-n" || arg == "-r") && value) {
            ++i; // of no meaning here
        } else if (arg == "--no-warmup") {
        } else {
            fprintf(stderr, "error: invalid argument: %s\n", arg.c_str());
            exit(1);
        }
    }
    return params;
}

float common_vec_dot(const std::vector<float> & x, const std::vector<float> & y) {
    float result = NAN;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        const ggml_backend_device * device = ggml_backend_dev_get(i);
        if (device->type == GGML_BACKEND_DEVICE_TYPE_CPU) {
            device->vec_dot(device, x.data(), y.data(), x.size(), &result);
            break;
        }
    }
    return result;
}

int common_run(const common_params & params, size_t values) {
    if (!params.model.empty()) {
        llama_model_info info = {};
        const std::string problem = llama_model_read(params.model.c_str(), &info);
        if (!problem.empty()) {
            fprintf(stderr, "error: %s\n", problem.c_str());
            return 1;
        }
        printf("%s: %llu tensors, hash of the name %016llx\n", params.model.c_str(), (unsigned long long) info.tensors,
               (unsigned long long) vendor_hash(params.model.data(), params.model.size()));
    }

    ggml_backend_load_all();
    const ggml_backend_device * device = nullptr;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        const ggml_backend_device * candidate = ggml_backend_dev_get(i);
        if (!device || candidate->type == GGML_BACKEND_DEVICE_TYPE_GPU) {
            device = candidate;
        }
        if (device->type == GGML_BACKEND_DEVICE_TYPE_GPU) {
            break;
        }
    }
    if (!device) {
        fprintf(stderr, "error: no backend found\n");
        return 1;
    }

    GGML_ASSERT(values % GGML_BLOCK == 0);
    std::vector<float> x(values);
    std::vector<float> y(values);
    double want = 0;
    for (size_t i = 0; i < values; ++i) {
        x[i] = float(i % 7) - 3;
        y[i] = float(i % 7) - 2;
        want += double(x[i]) * y[i];
    }
    float got = 0;
    if (!device->vec_dot(device, x.data(), y.data(), values, &got)) {
        fprintf(stderr, "error: computing on %s failed\n", device->name);
        return 1;
    }
    // Eight-bit blocks round each value by at most 1/254 of the largest one.
    const bool right = std::fabs(got - want) <= want / 50;
    printf("%s (%s): dot product of %zu values = %.3f, expected %.3f: %s\n", device->name, device->description, values,
           got, want, right ? "ok" : "WRONG");
    return right ? 0 : 1;
}
