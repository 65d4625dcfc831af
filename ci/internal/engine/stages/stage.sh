# What the stages share; sourced by each of them. A stage reads its mounts, works in /build,
# and leaves its files in /out and its figures in /stats/stats (key=value lines).
set -eu
export LC_ALL=C NINJA_STATUS='[%f/%t] '
export CCACHE_DIR=/ccache CCACHE_STATSLOG=/tmp/ccache.stats
started=$(date +%s)
mkdir -p /out /stats
: > "$CCACHE_STATSLOG"

# jobs GIB prints how many compiler processes to run: JOBS if the user said so, else one a
# core, as far as there is memory for GIB each.
jobs() {
    [ -z "${JOBS-}" ] || { echo "$JOBS"; return; }
    cores=$(nproc)
    fit=$(awk -v gib="$1" '/^MemTotal:/ { print int($2 / 1048576 / gib) }' /proc/meminfo)
    [ "$fit" -ge 1 ] || fit=1
    [ "$fit" -lt "$cores" ] && echo "$fit" || echo "$cores"
}

# finish writes the stage's figures: when it ran, CPU seconds of all its processes, and
# how many compilations ran and how many came from the compiler cache.
finish() {
    times > /tmp/times # not in a pipeline: a subshell has no children yet
    cpu=$(awk 'END { split($1, u, /[ms]/); split($2, s, /[ms]/); print u[1] * 60 + u[2] + s[1] * 60 + s[2] }' /tmp/times)
    hits=$(grep -c -E '^(direct|preprocessed)_cache_hit$' "$CCACHE_STATSLOG" || true)
    misses=$(grep -c '^cache_miss$' "$CCACHE_STATSLOG" || true)
    printf 'started=%s\nwall=%s\ncpu=%s\ncompiled=%s\nhits=%s\n' \
        "$started" "$(($(date +%s) - started))" "$cpu" "$misses" "$hits" > /stats/stats
    rm -rf /build "$CCACHE_STATSLOG" /tmp/times
}
