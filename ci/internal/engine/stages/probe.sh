# The client's program that asks CUDA, which goes into the client's archive.
. /stages/stage.sh
sh /src/build.sh /src /out/llcuda-probe
chmod 755 /out/llcuda-probe
finish
