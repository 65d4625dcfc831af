# The device half of one SM: only the CUDA backend. libggml-base is compiled to link
# against and left behind; the bundle's own comes with the host half.
. /stages/stage.sh
jobs=$(sh /stages/jobs.sh 3) # cicc takes up to 3 GiB

# __DATE__ and __TIME__ are the same in every build. The stage knows no other date: it would tie
# the device half to what happens elsewhere in the tree.
export SOURCE_DATE_EPOCH=315532800 # 1980-01-01

# The same source gives the same PTX: see there. CUDA 13 keeps the names in cubins, too, so these depend on it as well.
# ccache takes it for a part of the compiler.
gcc -shared -fPIC -O2 -Wall -Werror -o /tmp/steady.so /stages/device/steady.c
export LD_PRELOAD=/tmp/steady.so CCACHE_EXTRAFILES=/stages/device/steady.c
setarch --addr-no-randomize true || echo "this engine forbids personality(2): PTX may differ from build to build, cubins do not"

mkdir -p /out/lib
cmake -S /stages/device -B /build -G Ninja "$@"
ninja -C /build -j "$jobs" ggml-cuda

strip --strip-unneeded -o /out/lib/libggml-cuda.so "$(realpath /build/bin/libggml-cuda.so)"
sh /stages/licenses.sh compiled /build > /out/THIRD_PARTY_LICENSES.txt
refuse_timestamps
sh /stages/baseline.sh /out/lib/libggml-cuda.so
finish
