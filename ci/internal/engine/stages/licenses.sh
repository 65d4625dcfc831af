# licenses.sh prints the licence texts of what a half of a bundle contains besides llama.cpp itself:
#
#   licenses.sh vendored          what the tree vendors, and the compiler's OpenMP runtime
#   licenses.sh compiled BUILD    what ninja compiled in BUILD: single files of the tree with a notice of their own, and
#                                 the toolkit's C++ libraries, which are headers
#   licenses.sh page FILE...      the web UI, as the tree carries it: the notices in these files
set -eu
export LC_ALL=C
cd /src

title() { printf '\n%s\n%s\n\n' "$1" "$(printf '%s' "$1" | tr -c '' '=')"; }

vendored() {
    find licenses vendor -type f -iname 'LICENSE*' 2>/dev/null | sort | while read -r file; do
        title "$file"
        cat "$file"
    done
    # Libraries of one file carry their licence in it: at the end, or before the first directive.
    find vendor -type f -name '*.[ch]' 2>/dev/null | sort | while read -r file; do
        find "$(dirname "$file")" -maxdepth 1 -iname 'LICENSE*' | grep -q . && continue
        text=$(awk '/This software is available (under|as a choice)/ { on = 1 } on' "$file")
        [ -n "$text" ] || text=$(awk '/^#/ { exit } { print }' "$file")
        if printf '%s' "$text" | grep -qiE 'licen[sc]e|public domain'; then
            title "$file"
            printf '%s\n' "$text"
        fi
    done
    title "libgomp (GCC, with the GCC Runtime Library Exception)"
    cat /opt/llcuda/link/libgomp.copyright
    title "GNU General Public License, version 3"
    cat /usr/share/common-licenses/GPL-3
}

# notices prints a file's comments that claim a copyright or grant a licence.
notices() {
    awk '
        function flush() {
            if (block ~ /[Cc]opyright|[Ll]icen[sc]ed|[Ll]icen[sc]e\]|[Pp]ublic [Dd]omain|SPDX-License/)
                printf "%s", block
            block = ""
        }
        inside         { block = block $0 "\n"; if (/\*\//) { inside = 0; flush() } next }
        /^[ \t]*\/\*/  { flush(); block = $0 "\n"; inside = !/\*\//; if (!inside) flush(); next }
        /^[ \t]*\/\//  { block = block $0 "\n"; next }
                       { flush() }
        END            { flush() }' "$1"
}

page() {
    title "Web UI ($*)"
    printf 'These files are embedded in llama-server as the source tree carries them. Their notices:\n'
    for file in "$@"; do
        zcat -f "$file" | perl -0777 -ne 'while (m{/\*.*?\*/|<!--.*?-->}sg) { my $c = $&; print "\n$c\n" if $c =~ /copyright|licen[sc]e/i && !$seen{$c}++ }'
    done
}

compiled() {
    ninja -C "$1" -t deps | sed -n 's/^    //p' | sort -u > /tmp/read
    sed -n 's,^/src/,,p' /tmp/read | grep -vE '^(vendor|licenses)/' | while read -r file; do
        text=$(notices "$file")
        [ -n "$text" ] || continue
        title "$file"
        printf '%s\n' "$text"
        printf '%s' "$text" | grep -qi 'permission\|unlicense' ||
            printf '\nThe text of the MIT License is that of llama.cpp in LICENSE, with this notice in place of its first line.\n'
    done
    if grep -qE '/(cub|thrust|cuda/std)/' /tmp/read; then
        title "CUB, Thrust and libcu++ (NVIDIA CUDA Core Compute Libraries)"
        cat /opt/llcuda/LICENSE-cccl
        if grep -q /usr/share/common-licenses/Apache-2.0 /opt/llcuda/LICENSE-cccl; then
            title "Apache License, version 2.0"
            cat /usr/share/common-licenses/Apache-2.0
        fi
    fi
    rm /tmp/read
}

"$@"
