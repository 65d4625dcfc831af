#pragma once

#include <string>
#include <vector>

// The arguments that all programs share.
struct common_params {
    std::string model;
    std::string host = "127.0.0.1";
    int         port = 8080;
};

// Reads argv. --version, --help and --list-devices are answered here and end the program.
common_params common_params_parse(int argc, char ** argv, const char * usage);

void common_print_available_devices();

// The dot product of two vectors of as many values, a multiple of GGML_BLOCK, on the CPU; NAN where that failed.
float common_vec_dot(const std::vector<float> & x, const std::vector<float> & y);

// Runs the toy dot product on the first GPU, or on the CPU without one, and compares it with the plain sum;
// prints one line and returns the program's exit code.
int common_run(const common_params & params, size_t values);
