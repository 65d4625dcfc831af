# licenses.sh SOURCE prints the licence texts of everything that the programs contain besides
# llama.cpp itself: what the tree vendors, and the compiler's OpenMP runtime.
set -eu
export LC_ALL=C
cd "$1"

title() { printf '\n%s\n%s\n\n' "$1" "$(printf '%s' "$1" | tr -c '' '=')"; }

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
cat /usr/share/doc/gcc-12-base/copyright
title "GNU General Public License, version 3"
cat /usr/share/common-licenses/GPL-3
