# The device half of one SM: only the CUDA backend. libggml-base is compiled to link
# against and left behind; the bundle's own comes with the host half.
. /stages/stage.sh

mkdir -p /out/lib
cmake -S /stages/device -B /build -G Ninja "$@"
ninja -C /build -j "$(jobs 3)" ggml-cuda

strip --strip-unneeded -o /out/lib/libggml-cuda.so "$(realpath /build/bin/libggml-cuda.so)"
finish
