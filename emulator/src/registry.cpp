// registry.cpp: kernels by name, from the kernel libraries beside this one.
//
// Each kernels/*.cu becomes a library of its own with nothing visible, so two files may have functions and structs of the
// same name, as with nvcc.
#include <dirent.h>
#include <dlfcn.h>
#include <algorithm>
#include <map>
#include <memory>

#include "grid.h"

namespace standin {

namespace {

std::map<std::string, std::unique_ptr<Function>>& functions() {
    static auto* const all = new std::map<std::string, std::unique_ptr<Function>>();
    return *all;
}

// The folder of this library.
std::string own_folder() {
    Dl_info library;
    if (dladdr(reinterpret_cast<void*>(&own_folder), &library) == 0 || !library.dli_fname) return ".";
    const std::string path = library.dli_fname;
    const size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash);
}

std::vector<std::string> libraries_in(const std::string& folder) {
    std::vector<std::string> paths;
    DIR* opened = opendir(folder.c_str());
    if (!opened) return paths;
    while (const dirent* entry = readdir(opened)) {
        const std::string name = entry->d_name;
        if (name.size() > 3 && name.substr(name.size() - 3) == ".so") paths.push_back(folder + "/" + name);
    }
    closedir(opened);
    std::sort(paths.begin(), paths.end());
    return paths;
}

}  // namespace

void register_kernel(const KernelEntry& entry) {
    auto& slot = functions()[entry.name];
    if (slot) report(text("two kernels are called %s: in %s and in %s", entry.name, slot->entry->file, entry.file));
    slot = std::make_unique<Function>();
    slot->entry = new KernelEntry(entry);            // lives as long as its library: to the end of the process
}

Function* find_function(const std::string& name) {
    const auto found = functions().find(name);
    return found == functions().end() ? nullptr : found->second.get();
}

bool load_kernel_libraries() {
    const std::string folder = own_folder() + "/" + settings().kernel_set;
    std::vector<std::string> paths = libraries_in(folder);
    if (paths.empty()) {
        report(text("%s: no kernels; a test that runs with the same DSR_STANDIN_ENGINE and others makes them", folder.c_str()));
        return false;
    }
    std::string more = settings().kernel_libraries;
    while (!more.empty()) {
        const size_t colon = more.find(':');
        paths.push_back(more.substr(0, colon));
        more = colon == std::string::npos ? "" : more.substr(colon + 1);
    }
    for (const std::string& path : paths) {
        if (dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) continue;
        report(dlerror());
        return false;
    }
    return true;
}

}  // namespace standin
