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
{release} in one stands for the release. Only alone may a folder have a blank in its name.

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

# fetch PROTOCOLS ADDRESS FILE, by curl. Where another mirror is left, one that is slow for a minute is given up.
fetch() {
	if [ -n "$hurry" ]; then
		set -- --speed-limit 16384 --speed-time 60 --proto "=$1" --output "$3" -- "$2"
	else
		set -- --retry 3 --proto "=$1" --output "$3" -- "$2"
	fi
	curl --fail --location --silent --show-error --connect-timeout 30 "$@"
}

# get ADDRESS FILE. With curl https never becomes http on the way. wget gets no time limit: Debian's busybox
# crashes on -T.
get() {
	# No mirror fills the disk: the archive has about 10 MB. The unit is 512 or 1024 bytes.
	ulimit -f 131072 || : # it is lower already
	case $1 in
	file://*)
		cp -- "${1#file://}" "$2"
		;;
	https://*)
		if has curl; then
			fetch https "$1" "$2"
		else
			wget -q -O "$2" -- "$1"
		fi
		;;
	http://*)
		if has curl; then
			fetch http,https "$1" "$2"
		else
			wget -q -O "$2" -- "$1"
		fi
		;;
	*://*)
		say "install.sh: $1 is not a file, http or https address"
		return 1
		;;
	*)
		cp -- "$1" "$2"
		;;
	esac
}

# take MIRROR FILE: the archive from one mirror, if it has it right. Else $code is 3 if it has another one, and $slow lists
# it if it may have the right one for those who wait.
take() {
	mirror=$1
	case $mirror in
	default) mirror=$downloads ;;
	*'{release}'*) mirror=${mirror%%'{release}'*}$release${mirror#*'{release}'} ;;
	esac
	mirror=${mirror%/}
	say "downloading $mirror/$archive"
	status=0
	(get "$mirror/$archive" "$2") || status=$?
	if [ "$status" = 28 ] && [ -n "$hurry" ]; then # curl's code for what takes too long
		say "install.sh: $mirror is slow"
		slow="$slow $1"
		return 1
	fi
	if [ "$status" != 0 ]; then
		say "install.sh: $mirror does not give $archive"
		return 1
	fi
	got=$(sum "$2")
	if [ "$got" = "$archive_sum" ]; then return 0; fi
	say "install.sh: $mirror/$archive has sha256 $got"
	say "    and must have $archive_sum"
	code=3
	return 1
}

# bring FILE MIRROR...: the archive, from the first mirror that has it right.
bring() {
	file=$1 code=6 slow='' hurry=''
	shift
	if [ $# -gt 1 ]; then hurry=yes; fi
	for mirror in "$@"; do
		if take "$mirror" "$file"; then return 0; fi
	done
	hurry=''
	for mirror in $slow; do
		if take "$mirror" "$file"; then return 0; fi
	done
	if [ "$code" = 3 ]; then
		fail 3 "the archive is not the one that release $release was published with; nothing was installed" \
			"somebody changed it, or it was damaged on the way: fetch install.sh again, and try another mirror with LLCUDA_MIRROR"
	fi
	if [ $# -gt 1 ]; then
		fail 6 "no address gave $archive; nothing was installed" \
			"check the network, HTTPS_PROXY, the free space in $bin, and LLCUDA_MIRROR: blanks separate addresses there, and a folder with a blank in its name must be the only one and must exist"
	fi
	fail 6 "no address gave $archive; nothing was installed" \
		"check the network, HTTPS_PROXY and the free space in $bin, or name a folder or another address with LLCUDA_MIRROR"
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

	# What a shell does not expand: in quotes, or behind --prefix=
	# shellcheck disable=SC2088 # the tilde is meant
	case $bin in
	'~/'*)
		if [ -z "${HOME:-}" ]; then fail 2 "there is no home folder" "name a folder by its whole path"; fi
		bin=$HOME/${bin#'~/'}
		;;
	/*) ;;
	*) bin=./$bin ;; # cd takes - and CDPATH for something else
	esac

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
	if [ -d "${LLCUDA_MIRROR:-}" ]; then
		set -- "$LLCUDA_MIRROR"
	else
		# shellcheck disable=SC2086 # blanks separate them
		set -- ${LLCUDA_MIRROR:-}
	fi
	if [ $# = 0 ]; then set -- "$downloads"; fi
	case $* in
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
		bin=$(cd -- "$bin" && pwd) || fail 1 "$bin cannot be entered" "name another folder with --prefix or LLCUDA_BIN"
		if [ -e "$bin/llcuda-fetch" ] && [ ! -f "$bin/llcuda-fetch" ]; then # mv would move the program into a folder
			fail 1 "$bin/llcuda-fetch is there and is not a file; nothing was installed" "move it away, or name another folder with --prefix or LLCUDA_BIN"
		fi
		trap cleanup EXIT
		trap 'exit 129' HUP
		trap 'exit 130' INT
		trap 'exit 143' TERM
		# On the same file system as the program, so that it comes to its place by one rename.
		work=$(mktemp -d "$bin/.llcuda-fetch.XXXXXX") || fail 1 "$bin cannot be written to" "name another folder with --prefix or LLCUDA_BIN"
		bring "$work/archive" "$@"
		tar -xzf "$work/archive" -C "$work" llcuda-fetch || fail 1 "unpacking $archive failed"
		if [ "$(sum "$work/llcuda-fetch")" != "$program_sum" ]; then fail 1 "unpacking $archive gave another program than was packed" "is the disk full?"; fi
		chmod 755 "$work/llcuda-fetch"
		"$work/llcuda-fetch" --version >/dev/null || fail 1 "$work/llcuda-fetch does not run" "is $bin on a file system mounted noexec? Name another folder with --prefix or LLCUDA_BIN"
		if [ "$probe_sum" != none ]; then
			tar -xzf "$work/archive" -C "$work" llcuda-probe || fail 1 "unpacking $archive failed"
			if [ "$(sum "$work/llcuda-probe")" != "$probe_sum" ]; then fail 1 "unpacking $archive gave another program than was packed" "is the disk full?"; fi
			chmod 755 "$work/llcuda-probe"
			mv -f -- "$work/llcuda-probe" "$bin/llcuda-probe" ||
				fail 1 "$bin/llcuda-probe cannot be replaced" "look at who may change it, or name another folder with --prefix or LLCUDA_BIN"
		fi
		mv -f -- "$work/llcuda-fetch" "$bin/llcuda-fetch" ||
			fail 1 "$bin/llcuda-fetch cannot be replaced" "look at who may change it, or name another folder with --prefix or LLCUDA_BIN"
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
		case $bin in
		*[!A-Za-z0-9/._-]*) say "Next: \"$bin/llcuda-fetch\"" ;;
		*) say "Next: $bin/llcuda-fetch" ;;
		esac
		;;
	esac
}

# In one piece, so that half a script does nothing.
{ main "$@"; exit; }
