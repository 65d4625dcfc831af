#!/bin/sh
# Brings llcuda-fetch, of release @RELEASE@, to this machine. For people without Go:
#
#   curl -fsSL @DOWNLOADS@/install.sh | sh
#
# It downloads one archive, believes it only if it has the sha256 written below, and puts llcuda-fetch,
# and beside it the small llcuda-probe that asks CUDA for the GPUs, into ~/.local/bin. It asks nothing,
# and never becomes another user. Any POSIX shell runs it.
set -euf

release='@RELEASE@'
downloads='@DOWNLOADS@'
identity='@IDENTITY@'
issuer='@ISSUER@'
archive_amd64='@ARCHIVE_AMD64@'
program_amd64='@PROGRAM_AMD64@'
probe_amd64='@PROBE_AMD64@'
archive_arm64='@ARCHIVE_ARM64@'
program_arm64='@PROGRAM_ARM64@'
probe_arm64='@PROBE_ARM64@'

usage() {
	cat <<END
usage: sh install.sh [--prefix DIR]

Installs llcuda-fetch $release into DIR/bin; without --prefix, into \$LLCUDA_BIN
or ~/.local/bin. \$LLCUDA_MIRROR, separated by blanks, are folders or addresses to
take it from instead of $downloads;
{release} in one stands for the release.

Exit codes: 0 done, 1 failed, 2 usage, 3 checksum refused, 6 network.
END
}

say() { printf '%s\n' "$*" >&2; }

# fail CODE MESSAGE [HINT]
fail() {
	say "install.sh: $2"
	if [ $# -gt 2 ]; then say "hint: $3"; fi
	exit "$1"
}

has() { command -v "$1" >/dev/null 2>&1; }

# sum FILE prints a file's sha256.
sum() {
	if has sha256sum; then
		sha256sum <"$1" | cut -d ' ' -f 1
	elif has shasum; then
		shasum -a 256 <"$1" | cut -d ' ' -f 1
	else
		openssl dgst -sha256 <"$1" | sed 's/.* //'
	fi
}

# get ADDRESS FILE. With curl https never becomes http on the way. wget gets no time limit: Debian's busybox
# crashes on -T.
get() {
	case $1 in
	file://*)
		cp -- "${1#file://}" "$2"
		;;
	https://*)
		if has curl; then
			curl --fail --location --silent --show-error --retry 3 --connect-timeout 30 --proto =https --output "$2" -- "$1"
		else
			wget -q -O "$2" -- "$1"
		fi
		;;
	http://*)
		if has curl; then
			curl --fail --location --silent --show-error --retry 3 --connect-timeout 30 --proto =http,https --output "$2" -- "$1"
		else
			wget -q -O "$2" -- "$1"
		fi
		;;
	*://*)
		say "install.sh: $1 is no file, http or https address"
		return 1
		;;
	*)
		cp -- "$1" "$2"
		;;
	esac
}

# bring FILE: the archive, from the first mirror that has it right.
bring() {
	code=6
	for mirror in ${LLCUDA_MIRROR:-"$downloads"}; do
		case $mirror in
		default) mirror=$downloads ;;
		*'{release}'*) mirror=${mirror%%'{release}'*}$release${mirror#*'{release}'} ;;
		esac
		mirror=${mirror%/}
		say "downloading $mirror/$archive"
		if ! get "$mirror/$archive" "$1"; then
			say "install.sh: $mirror does not give $archive"
			continue
		fi
		got=$(sum "$1")
		if [ "$got" = "$archive_sum" ]; then return 0; fi
		say "install.sh: $mirror/$archive has sha256 $got"
		say "    and must have $archive_sum"
		code=3
	done
	if [ "$code" = 3 ]; then
		fail 3 "the archive is not the one that release $release was published with; nothing was installed" \
			"somebody changed it, or it was damaged on the way: fetch install.sh again, and try another mirror with LLCUDA_MIRROR"
	fi
	fail 6 "no address gave $archive; nothing was installed" \
		"check the network, HTTPS_PROXY, or name a folder or another address with LLCUDA_MIRROR"
}

work=
# shellcheck disable=SC2317 # a trap calls it
cleanup() { if [ -n "$work" ]; then rm -rf -- "$work"; fi; }

main() {
	bin=
	while [ $# -gt 0 ]; do
		case $1 in
		--prefix)
			if [ $# -lt 2 ] || [ -z "$2" ]; then fail 2 "--prefix needs a folder" "sh install.sh --help"; fi
			bin=$2/bin
			shift
			;;
		--prefix=?*) bin=${1#--prefix=}/bin ;;
		-h | --help)
			usage
			exit 0
			;;
		*) fail 2 "what is $1?" "sh install.sh --help" ;;
		esac
		shift
	done
	if [ -z "$bin" ]; then bin=${LLCUDA_BIN:-}; fi
	if [ -z "$bin" ]; then
		if [ -z "${HOME:-}" ]; then fail 2 "there is no home folder" "name a folder with --prefix or LLCUDA_BIN"; fi
		bin=$HOME/.local/bin
	fi

	if [ "$(uname -s)" != Linux ]; then fail 1 "llcuda-fetch is for Linux, and this is $(uname -s)"; fi
	case $(uname -m) in
	x86_64 | amd64) arch=amd64 archive_sum=$archive_amd64 program_sum=$program_amd64 probe_sum=$probe_amd64 ;;
	aarch64 | arm64) arch=arm64 archive_sum=$archive_arm64 program_sum=$program_arm64 probe_sum=$probe_arm64 ;;
	*) fail 1 "llcuda-fetch is for x86-64 and arm64, and this is $(uname -m)" ;;
	esac
	archive=llcuda-fetch-linux-$arch.tar.gz
	for tool in tar gzip mktemp cut sed; do
		if ! has "$tool"; then fail 1 "there is no $tool" "install it, or unpack $archive of the release by hand"; fi
	done
	if ! has sha256sum && ! has shasum && ! has openssl; then
		fail 1 "there is no sha256sum, shasum or openssl to check the archive with" "install one of them"
	fi
	case ${LLCUDA_MIRROR:-$downloads} in
	*http://* | *https://*)
		if ! has curl && ! has wget; then fail 1 "there is no curl or wget" "install one of them, or name a folder with LLCUDA_MIRROR"; fi
		;;
	esac

	# llcuda-probe asks CUDA for the GPUs; it lies beside the client.
	if [ -f "$bin/llcuda-fetch" ] && [ "$(sum "$bin/llcuda-fetch")" = "$program_sum" ] &&
		{ [ "$probe_sum" = none ] || { [ -f "$bin/llcuda-probe" ] && [ "$(sum "$bin/llcuda-probe")" = "$probe_sum" ]; }; }; then
		say "$bin/llcuda-fetch is that of release $release already"
	else
		mkdir -p -- "$bin" || fail 1 "$bin cannot be made" "name another folder with --prefix or LLCUDA_BIN"
		bin=$(cd -- "$bin" && pwd)
		trap cleanup EXIT
		trap 'exit 129' HUP
		trap 'exit 130' INT
		trap 'exit 143' TERM
		# On the same file system as the program, so that it comes to its place by one rename.
		work=$(mktemp -d "$bin/.llcuda-fetch.XXXXXX") || fail 1 "$bin cannot be written to" "name another folder with --prefix or LLCUDA_BIN"
		bring "$work/archive"
		tar -xzf "$work/archive" -C "$work" llcuda-fetch || fail 1 "unpacking $archive failed"
		if [ "$(sum "$work/llcuda-fetch")" != "$program_sum" ]; then fail 1 "unpacking $archive gave another program than was packed" "is the disk full?"; fi
		chmod 755 "$work/llcuda-fetch"
		"$work/llcuda-fetch" --version >/dev/null || fail 1 "$work/llcuda-fetch does not run" "is $bin on a file system mounted noexec? Name another folder with --prefix or LLCUDA_BIN"
		if [ "$probe_sum" != none ]; then
			tar -xzf "$work/archive" -C "$work" llcuda-probe || fail 1 "unpacking $archive failed"
			if [ "$(sum "$work/llcuda-probe")" != "$probe_sum" ]; then fail 1 "unpacking $archive gave another program than was packed" "is the disk full?"; fi
			chmod 755 "$work/llcuda-probe"
			mv -f -- "$work/llcuda-probe" "$bin/llcuda-probe" || fail 1 "$bin/llcuda-probe cannot be replaced"
		fi
		mv -f -- "$work/llcuda-fetch" "$bin/llcuda-fetch" || fail 1 "$bin/llcuda-fetch cannot be replaced"
		say "installed $bin/llcuda-fetch of release $release"
	fi
	cat >&2 <<END

The archive has the sha256 that install.sh carries. To verify who signed both, with cosign:
  cd "\$(mktemp -d)"
  for f in SHA256SUMS SHA256SUMS.sigstore.json $archive; do curl -fsSLO $downloads/\$f; done
  cosign verify-blob --bundle SHA256SUMS.sigstore.json --certificate-oidc-issuer $issuer \\
    --certificate-identity $identity@refs/tags/$release SHA256SUMS
  sha256sum --check --ignore-missing SHA256SUMS

END
	case :${PATH:-}: in
	*":$bin:"*) say "Next: llcuda-fetch" ;;
	*)
		say "$bin is not in PATH: export PATH=\"$bin:\$PATH\""
		say "Next: $bin/llcuda-fetch"
		;;
	esac
}

# In one piece, so that half a script does nothing.
{ main "$@"; exit; }
