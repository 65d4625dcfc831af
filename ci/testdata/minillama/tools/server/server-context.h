#pragma once

#include <string>

std::string server_greeting();
