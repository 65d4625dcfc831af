#!/bin/sh
# Compiles the probe: build.sh FOLDER PROGRAM, where FOLDER has probe.c.
#
# The program asks for nothing newer than the first symbols of glibc on x86-64, wherever it is compiled: -DREACH names
# them, and libdl.so.2 is where dlopen was before glibc 2.34. Its bytes depend on the compiler alone.
set -eu
exec gcc -std=gnu11 -O2 -Wall -Wextra -Werror -fno-stack-protector -U_FORTIFY_SOURCE -DREACH -nostartfiles -s \
	-Wl,--build-id=none -Wl,--hash-style=gnu -Wl,--no-as-needed -o "$2" "$1/probe.c" -l:libdl.so.2
