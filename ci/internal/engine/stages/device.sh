# The device half of one SM: only the CUDA backend. libggml-base is compiled to link
# against and left behind; the bundle's own comes with the host half.
. /stages/stage.sh

# The names that nvcc makes up are the same whatever its process id. ccache takes that for a part of the compiler.
gcc -shared -fPIC -O2 -o /tmp/pid.so /stages/device/pid.c
export LD_PRELOAD=/tmp/pid.so CCACHE_EXTRAFILES=/stages/device/pid.c

mkdir -p /out/lib
cmake -S /stages/device -B /build -G Ninja "$@"
ninja -C /build -j "$(jobs 3)" ggml-cuda

strip --strip-unneeded -o /out/lib/libggml-cuda.so "$(realpath /build/bin/libggml-cuda.so)"
finish
