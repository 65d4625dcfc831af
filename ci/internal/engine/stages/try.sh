# Every CPU variant of the host half computes, or the build stops. /trial/try is go run ./ci try without its command line.
. /stages/stage.sh

/trial/try /half /out/lacking
finish
