# The toolkit's own libraries that the CUDA backend needs, under the names it asks for.
. /stages/stage.sh
mkdir -p /out/lib
cp -L /opt/llcuda/runtime/lib/*.so.12 /out/lib/
cp -L /opt/llcuda/runtime/LICENSE /out/LICENSE
chmod 755 /out/lib/*
chmod 644 /out/LICENSE
ls -l /out/lib
finish
