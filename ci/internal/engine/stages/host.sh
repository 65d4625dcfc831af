# The host half, compiled once for all SMs: the programs with the web UI inside, libllama,
# libggml and the CPU variants. No CUDA.
. /stages/stage.sh
jobs=$(sh /stages/jobs.sh 1)

mkdir -p /out/lib /out/binaries
cmake -S /src -B /build -G Ninja "$@"
ninja -C /build -j "$jobs" llama-server llama-cli llama-bench llama-quantize

for program in llama-server llama-cli llama-bench llama-quantize; do
    strip -s -o "/out/binaries/$program" "/build/bin/$program"
done
for library in /build/bin/*.so*; do
    if [ -L "$library" ]; then
        cp -P "$library" /out/lib/
    else
        strip --strip-unneeded -o "/out/lib/${library##*/}" "$library"
    fi
done
# OpenMP's runtime is the one library of the compiler that bare systems lack.
if readelf -d /out/lib/*.so* | grep -q 'NEEDED.*libgomp\.so\.1'; then
    cp /opt/llcuda/link/libgomp.so.1 /out/lib/libgomp.so.1
    chmod 755 /out/lib/libgomp.so.1
fi
cp /src/LICENSE /out/LICENSE
{
    sh /stages/licenses.sh vendored
    [ -z "${PAGE-}" ] || sh /stages/licenses.sh page $PAGE
    sh /stages/licenses.sh compiled /build
} > /out/THIRD_PARTY_LICENSES.txt
refuse_timestamps
sh /stages/baseline.sh /out/binaries/* $(ls /out/lib/*.so* | grep -v libggml-cpu-) /out/lib/libggml-cpu-x64.so
finish
