#pragma once

#include <cstdio>

// Writes the two lines that --version gives.
void llama_print_build_info(const char * llama_version, FILE * stream = stderr);
