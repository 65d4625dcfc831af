#include "ggml-backend.h"

#include <dirent.h>
#include <dlfcn.h>
#include <unistd.h>

#include <string>
#include <vector>

// Devices of all loaded backends. The libraries stay loaded until the program ends.
static std::vector<const ggml_backend_device *> & devices() {
    static std::vector<const ggml_backend_device *> all;
    return all;
}

static std::string executable_folder() {
    char path[4096];
    const ssize_t size = readlink("/proc/self/exe", path, sizeof path);
    if (size <= 0 || size == ssize_t(sizeof path)) {
        return ".";
    }
    const std::string whole(path, size_t(size));
    return whole.substr(0, whole.rfind('/'));
}

static std::vector<std::string> search_folders() {
    std::vector<std::string> folders;
#ifdef GGML_BACKEND_DIR
    folders.push_back(GGML_BACKEND_DIR);
#endif
    folders.push_back(executable_folder());
    folders.push_back(".");
    return folders;
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
    ggml_log("loaded %s backend from %s\n", reg->name, path.c_str());
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
    for (const std::string & folder : search_folders()) {
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
    for (const std::string & folder : search_folders()) {
        const std::string path = folder + "/libggml-" + name + ".so";
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
