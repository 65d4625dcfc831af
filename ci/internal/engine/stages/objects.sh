# What ccache keeps, on its way between the engine and the machine that asks for the build.
#
#   objects.sh load          adds what an earlier build left, /given/objects.tar if there is one, and leaves the time in /out/since
#   objects.sh keep SINCE    leaves in /out/objects.tar what was used after that time, at most LIMIT bytes, the newest first
#
# What the user should know is in /out/said: of a command as short as these, the engine may not show what it printed.
#
# An archive is for one toolchain. Others could not use it: ccache keys on the toolchain.
set -eu
export LC_ALL=C
mkdir -p /out /tmp/objects
: > /out/said
case $1 in
load)
    given=/given/objects.tar
    if [ -e "$given" ]; then
        if ! tar -C /tmp/objects -xf "$given" toolchain ccache || [ -n "$(find /tmp/objects ! -type f ! -type d)" ]; then
            echo "the objects of earlier builds are damaged: compiling without them" > /out/said
        elif ! cmp -s /tmp/objects/toolchain /etc/llcuda/toolchain; then
            echo "the objects of earlier builds are of another toolchain: compiling without them" > /out/said
        else
            for dir in /tmp/objects/ccache/[0-9a-f]; do # not ccache.conf
                if [ -d "$dir" ]; then
                    cp -Rpn "$dir" /ccache/ # with their times: what is not used is not kept
                fi
            done
        fi
    fi
    date +%s > /out/since
    ;;
keep)
    cp /etc/llcuda/toolchain /tmp/objects/
    (cd /ccache && find . -path './[0-9a-f]/*' -type f ! -name stats ! -name '*.lock' -newermt "@$2" -printf '%T@ %s %p\n') | sort -rn |
        awk -v limit="$LIMIT" '{ total += $2 } total <= limit { print $3 }' > /tmp/objects.list
    mkdir /tmp/objects/ccache
    (cd /ccache && tar -cf - -T /tmp/objects.list) | tar -C /tmp/objects/ccache -xf -
    tar -C /tmp/objects -cf /out/objects.tar toolchain ccache
    echo "$(wc -l < /tmp/objects.list) files of the compiler cache, $(du -sm /tmp/objects/ccache | cut -f1) MB" > /out/said
    ;;
esac
