# A runtime: CUDA's own libraries that the CUDA backend needs, under the names it asks for, and their licence.
# Without KEEP they are NVIDIA's shared libraries as they are. With it, cuBLAS is linked from NVIDIA's static libraries
# with the machine code of one SM major alone (sm_7x), or the PTX of one SM (compute_90), and only with the functions that
# the tree in /src calls; LINKING are the linker's options that keep it within the floors.
. /stages/stage.sh
given=/opt/llcuda/runtime
mkdir -p /out/lib /build
cp -L "$given/LICENSE" /out/LICENSE

# functions prints what the tree calls of cuBLAS, as the linker names it: cublas_v2.h renames some. What is merely
# mentioned, in a comment or as a type, is no function that the static library defines.
functions() {
    { echo '#include <cublas_v2.h>'
      echo calls:
      find /src/ggml/src/ggml-cuda -name '*.cu' -o -name '*.cuh' | sort | while read -r file; do
          gcc -fpreprocessed -dD -E -P -x c++ "$file" 2>/dev/null
      done | grep -oE '\bcublas[A-Z][A-Za-z0-9_]*' | sort -u
    } | g++ -E -P -x c++ - | sed '1,/^calls:/d' | grep -oE '\bcublas[A-Z][A-Za-z0-9_]*' | sort -u > /build/called
    nm --defined-only /opt/llcuda/static/libcublas_static.a 2>/dev/null | awk '$2 == "T" { print $3 }' | sort -u > /build/defined
    comm -12 /build/called /build/defined
}

# codes LIBRARY prints what of KEEP a library has. cuBLAS has kernels for the first SM of a major alone, so all are kept.
# A kernel marked sm_50a comes along with sm_50.
codes() {
    case $KEEP in
    sm_*)      cuobjdump --list-elf "$1" | sed -nE "s/.*\.(${KEEP%x}[0-9])\.cubin\$/\1/p" ;;
    compute_*) cuobjdump --list-ptx "$1" | sed -nE "s/.*\.sm_(${KEEP#compute_})\.ptx\$/compute_\1/p" ;;
    esac | sort -u
}

# prune LIBRARY leaves of a static library the code of KEEP.
prune() {
    set -- "$1" $(for code in $(codes "$1"); do echo "-gencode arch=compute_${code#*_},code=$code"; done)
    if [ $# = 1 ]; then
        echo "$(basename "$1") has no code for $KEEP"
        exit 1
    fi
    library=$1
    shift
    echo "$(basename "$library"): $*"
    nvprune "$@" "$library" -o "/build/$(basename "$library")"
}

if [ -z "${KEEP-}" ]; then
    cp -L "$given"/lib/*.so.* /out/lib/
else
    cp -L "$given"/lib/libcudart.so.* /out/lib/
    named=$(basename "$given"/lib/libcublas.so.*) # the name that the backend asks for
    own=libllcuda-blas.so.${named##*.}
    functions > /build/functions
    if [ ! -s /build/functions ]; then
        echo "no file in ggml/src/ggml-cuda calls a function of cuBLAS: the runtime would be empty"
        exit 1
    fi
    prune /opt/llcuda/static/libcublas_static.a
    prune /opt/llcuda/static/libcublasLt_static.a
    { echo "$named { global:"; sed 's/$/;/' /build/functions; echo 'local: *; };'; } > /build/versions
    # No build ID: it is over the bytes that follow from the rest. The order of archives is that of who needs whom.
    g++ -shared -s -o "/out/lib/$own" -Wl,-soname,"$own" -Wl,--version-script=/build/versions $(sed 's/^/-Wl,-u,/' /build/functions) \
        -Wl,--gc-sections -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-z,defs -Wl,--as-needed \
        /build/libcublas_static.a /build/libcublasLt_static.a /opt/llcuda/static/libculibos.a /opt/llcuda/static/libcudart_static.a \
        $LINKING -ldl -lpthread -lrt
    ln -s "$own" "/out/lib/$named"
    case $KEEP in
    sm_*)      removed="device code for GPUs other than those of compute capability ${KEEP#sm_}"; removed=${removed%x}.x ;;
    compute_*) removed="device code other than PTX of $KEEP" ;;
    esac
    cat > /out/NOTICE <<TEXT
$own is not an NVIDIA library. The llcuda build farm linked it from NVIDIA's static libraries
libcublas_static.a, libcublasLt_static.a, libculibos.a and libcudart_static.a. NVIDIA's nvprune first removed from them the
$removed. The library exports only these functions:

$(sed 's/^/    /' /build/functions)

It is for the llama.cpp of the same release and for nothing else. $named is a link to it, because llama.cpp's CUDA
backend loads the library by that name. $(basename "$given"/lib/libcudart.so.*) is NVIDIA's own, unchanged.

LICENSE is the license of NVIDIA's libraries. It also covers what is linked from them here.
TEXT
    chmod 644 /out/NOTICE
fi
chmod 755 /out/lib/*
chmod 644 /out/LICENSE
ls -l /out/lib
finish
