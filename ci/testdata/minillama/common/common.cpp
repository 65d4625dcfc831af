#include "common.h"

#include "build-info.h"
#include "ggml-backend.h"
#include "ggml.h"
#include "hash/hash.h"
#include "llama.h"

#include <sched.h>
#include <spawn.h>

#include <cerrno>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <filesystem>
#include <mutex>
#include <sstream>
#include <thread>

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

// Asks the C and C++ libraries for what llama.cpp asks them for and systems as old as the floors lack: the farm links it
// into each file. Returns what went wrong.
static std::string common_libraries_problem() {
    const std::filesystem::path missing = std::filesystem::path("no") / "such" / "file";
    const auto                  pause   = std::chrono::milliseconds(20);
    std::ostringstream          problem;
    std::exception_ptr          carried;
    std::thread([&] {
        std::mutex                   mutex;
        std::condition_variable      condition;
        std::unique_lock<std::mutex> lock(mutex);
        const auto began = std::chrono::steady_clock::now();
        if (condition.wait_for(lock, pause, [] { return false; }) || std::chrono::steady_clock::now() - began < pause) {
            problem << "a wait ended early; ";
        }
        try {
            const auto size = std::filesystem::file_size(missing);
            problem << "a missing file has " << size << " bytes; ";
        } catch (...) {
            carried = std::current_exception();
        }
    }).join();
    try {
        const std::exception_ptr copy = carried;
        carried = nullptr;
        std::rethrow_exception(copy);
    } catch (const std::filesystem::filesystem_error & error) {
        if (error.path1() != missing || error.code() != std::errc::no_such_file_or_directory) {
            problem << error.what() << "; ";
        }
    }
    unsigned cpu = 0, node = 0;
    if (getcpu(&cpu, &node) != 0) {
        problem << "getcpu: " << strerror(errno) << "; ";
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    const int answer = posix_spawn_file_actions_addchdir_np(&actions, "/");
    if (answer != 0 && answer != ENOSYS) { // what it says where glibc is older than 2.29
        problem << "addchdir_np: " << strerror(answer) << "; ";
    }
    posix_spawn_file_actions_destroy(&actions);
    return problem.str();
}

int common_run(const common_params & params, size_t values) {
    const std::string lacking = common_libraries_problem();
    if (!lacking.empty()) {
        fprintf(stderr, "error: %s\n", lacking.c_str());
        return 1;
    }
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
