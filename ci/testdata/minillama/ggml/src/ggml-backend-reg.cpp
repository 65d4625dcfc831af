#include "ggml-backend.h"

#include <dirent.h>
#include <dlfcn.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

namespace fs = std::filesystem;

// Devices of all loaded backends. The libraries stay loaded until the program ends.
static std::vector<const ggml_backend_device *> & devices() {
    static std::vector<const ggml_backend_device *> all;
    return all;
}

// From here to the end of search_folders the lines are llama.cpp's own, so that the farm's patch applies to them.
#define GGML_LOG_DEBUG(...) ggml_log(__VA_ARGS__)

static fs::path get_executable_path() {
#if defined(__linux__) || defined(__FreeBSD__)
    std::string base_path = ".";
    std::vector<char> path(1024);
    while (true) {
        // get executable path
#    if defined(__linux__)
        ssize_t len = readlink("/proc/self/exe", path.data(), path.size());
#    elif defined(__FreeBSD__)
        ssize_t len = readlink("/proc/curproc/file", path.data(), path.size());
#    endif
        if (len == -1) {
            break;
        }
        if (len < (ssize_t) path.size()) {
            base_path = std::string(path.data(), len);
            // remove executable name
            auto last_slash = base_path.find_last_of('/');
            if (last_slash != std::string::npos) {
                base_path = base_path.substr(0, last_slash);
            }
            break;
        }
        path.resize(path.size() * 2);
    }

    return base_path + "/";
#endif
}

static std::vector<fs::path> search_folders(const char * user_search_path) {
    std::vector<fs::path> search_paths;
    if (user_search_path == nullptr) {
#ifdef GGML_BACKEND_DIR
        search_paths.push_back(fs::u8path(GGML_BACKEND_DIR));
#endif
        // default search paths: executable directory, current directory
        search_paths.push_back(get_executable_path());
        std::error_code cwd_ec;
        const fs::path cwd = fs::current_path(cwd_ec);
        if (cwd_ec) {
            GGML_LOG_DEBUG("%s: current_path() failure, error-message: %s\n", __func__, cwd_ec.message().c_str());
        } else {
            search_paths.push_back(cwd);
        }
    } else {
        search_paths.push_back(fs::u8path(user_search_path));
    }
    return search_paths;
}

static void * open_library(const std::string & path) {
    void * library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        ggml_log("skipping %s: %s\n", path.c_str(), dlerror());
    }
    return library;
}

static bool load(const std::string & path) {
    void * library = open_library(path);
    if (!library) {
        return false;
    }
    const auto init = reinterpret_cast<ggml_backend_init_t>(dlsym(library, "ggml_backend_init"));
    const ggml_backend_reg * reg = init ? init() : nullptr;
    if (!reg || reg->api_version != GGML_BACKEND_API_VERSION) {
        ggml_log("skipping %s: not a backend of this version\n", path.c_str());
        dlclose(library);
        return false;
    }
    fprintf(stderr, "load_backend: loaded %s backend from %s\n", reg->name, path.c_str()); // llama.cpp always says so
    for (size_t i = 0; i < reg->device_count; ++i) {
        devices().push_back(&reg->devices[i]);
    }
    return true;
}

// Loads the best libggml-NAME-*.so, or libggml-NAME.so where there is none.
static void load_best(const std::string & name) {
    const std::string prefix = "libggml-" + name + "-";
    int         best = 0;
    std::string best_path;
    for (const fs::path & search_path : search_folders(nullptr)) {
        const std::string folder = search_path.string();
        DIR * entries = opendir(folder.c_str());
        if (!entries) {
            continue;
        }
        while (const dirent * entry = readdir(entries)) {
            const std::string file = entry->d_name;
            if (file.compare(0, prefix.size(), prefix) != 0 || file.size() < 3 || file.substr(file.size() - 3) != ".so") {
                continue;
            }
            void * library = open_library(folder + "/" + file);
            if (!library) {
                continue;
            }
            const auto score = reinterpret_cast<ggml_backend_score_t>(dlsym(library, "ggml_backend_score"));
            const int  value = score ? score() : 0;
            ggml_log("%s/%s: score %d\n", folder.c_str(), file.c_str(), value);
            if (value > best) {
                best      = value;
                best_path = folder + "/" + file;
            }
            dlclose(library);
        }
        closedir(entries);
    }
    if (best > 0) {
        load(best_path);
        return;
    }
    for (const fs::path & search_path : search_folders(nullptr)) {
        const std::string path = search_path.string() + "/libggml-" + name + ".so";
        if (access(path.c_str(), R_OK) == 0 && load(path)) {
            return;
        }
    }
}

void ggml_backend_load_all(void) {
    load_best("cuda");
    load_best("cpu");
}

size_t ggml_backend_dev_count(void) {
    return devices().size();
}

const ggml_backend_device * ggml_backend_dev_get(size_t index) {
    return devices()[index];
}
