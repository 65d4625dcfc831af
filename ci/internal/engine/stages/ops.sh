# llama.cpp's test-backend-ops, which is no part of a bundle: it is put beside a bundle's programs and loads the backends
# there. It is one file, and is linked with a bundle's own libraries: nothing of the host half is compiled again.
. /stages/stage.sh
mkdir -p /build
cd /build
ccache g++ -std=c++17 -O2 -ffile-prefix-map=/src/= -I/src/include -c /src/test-backend-ops.cpp -o test-backend-ops.o
g++ -s -o /out/test-backend-ops test-backend-ops.o /src/lib/libggml.so.* /src/lib/libggml-base.so.* -pthread '-Wl,-rpath,$ORIGIN/../../lib'
chmod 755 /out/test-backend-ops
cd /
finish
