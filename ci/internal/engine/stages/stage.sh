# What the stages share; sourced by each of them. A stage reads its mounts, works in /build,
# and leaves its files in /out and its figures in /stats/stats (key=value lines).
set -eu
export LC_ALL=C NINJA_STATUS='[%f/%t] '
export CCACHE_DIR=/ccache CCACHE_STATSLOG=/tmp/ccache.stats
mkdir -p /out /stats
: > "$CCACHE_STATSLOG"

# refuse_timestamps keeps __TIMESTAMP__ out: it is when a file was last changed, which is no part of the source.
# __DATE__ and __TIME__ are those of SOURCE_DATE_EPOCH.
refuse_timestamps() {
    if grep -rIn --include='*.[ch]' --include='*.[ch]pp' --include='*.cc' --include='*.inc' --include='*.cu' --include='*.cuh' __TIMESTAMP__ /src; then
        echo "__TIMESTAMP__ differs from build to build: remove it from the source"
        exit 1
    fi
}

# finish writes the stage's figures: for which step it ran, CPU seconds of all its processes,
# and how many compilations ran and how many came from the compiler cache.
finish() {
    times > /tmp/times # not in a pipeline: a subshell has no children yet
    cpu=$(awk 'END { split($1, u, /[ms]/); split($2, s, /[ms]/); print u[1] * 60 + u[2] + s[1] * 60 + s[2] }' /tmp/times)
    hits=$(grep -c -E '^(direct|preprocessed)_cache_hit$' "$CCACHE_STATSLOG" || true)
    misses=$(grep -c '^cache_miss$' "$CCACHE_STATSLOG" || true)
    printf '%s\n' "${NONCE-}" > /stats/nonce
    printf 'cpu=%s\ncompiled=%s\nhits=%s\n' "$cpu" "$misses" "$hits" > /stats/stats
    rm -rf /build "$CCACHE_STATSLOG" /tmp/times
}
