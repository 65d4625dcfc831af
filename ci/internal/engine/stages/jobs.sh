# jobs.sh GIB prints how many compilers to run at once, each of which may take GIB of memory, and
# on standard error why: $JOBS if the user said so, else as many as cores, CPU quotas, memory and
# memory limits allow.
#
# jobs.sh limits GROUP prints the limits of a control group and of those above it, a line each:
# memory BYTES FILE, or cpus NUMBER FILE. A container sees no limit above its own group; whoever
# does gives these lines in $LIMITS.
#
# $ROOT is where /proc and /sys are found.
set -eu

# The groups, upwards to the root of what is mounted, of control groups of both versions.
limits() {
    awk -v root="${ROOT-}" -v group="$1" '
        function first(file,   line) { # the first line of a file; empty without one
            line = ""
            if ((getline line < (root file)) <= 0) line = ""
            close(root file)
            return line
        }
        # What is larger than any machine is how version 1 says that there is none.
        function memory(value, file) { if (value ~ /^[0-9]+$/ && value + 0 < 2 ^ 60) print "memory", value, file }
        function cpus(quota, period, file) { if (quota ~ /^[0-9]+$/ && period + 0 > 0) print "cpus", quota / period, file }
        function look(dir,   line, f) {
            memory(first(dir "/memory.max"), dir "/memory.max")
            memory(first(dir "/memory.high"), dir "/memory.high")
            memory(first(dir "/memory.limit_in_bytes"), dir "/memory.limit_in_bytes")
            while ((getline line < (root dir "/memory.stat")) > 0)
                if (split(line, f, " ") == 2 && f[1] == "hierarchical_memory_limit") memory(f[2], dir "/memory.stat")
            close(root dir "/memory.stat")
            if (split(first(dir "/cpu.max"), f, " ") == 2) cpus(f[1], f[2], dir "/cpu.max")
            cpus(first(dir "/cpu.cfs_quota_us"), first(dir "/cpu.cfs_period_us"), dir "/cpu.cfs_quota_us")
        }
        function climb(path, top, mount) {
            if (top != "/") path = path == top || index(path, top "/") == 1 ? substr(path, length(top) + 1) : ""
            for (sub(/\/$/, "", path); ; sub(/\/[^\/]*$/, "", path)) {
                look(mount path)
                if (path == "") return
            }
        }
        FILENAME == ARGV[1] { # ID:CONTROLLERS:GROUP; version 2 has no controllers
            split($0, f, ":")
            path = substr($0, length(f[1]) + length(f[2]) + 3)
            n = split(f[2], names, ",")
            if (n == 0) at[""] = path
            for (i = 1; i <= n; i++) at[names[i]] = path
            next
        }
        { # ID PARENT DEVICE TOP MOUNT OPTIONS … - TYPE SOURCE OPTIONS
            for (i = 7; i < NF && $i != "-"; i++) ;
            n = $(i + 1) == "cgroup" ? split($(i + 3), names, ",") : 1
            if ($(i + 1) == "cgroup2") names[1] = ""
            else if ($(i + 1) != "cgroup") next
            for (j = 1; j <= n; j++)
                if (names[j] in at && (names[j] == "" || names[j] == "memory" || names[j] == "cpu"))
                    climb(group == "" ? at[names[j]] : group, $4, $5)
        }' "${ROOT-}/proc/self/cgroup" "${ROOT-}/proc/self/mountinfo"
}

if [ "$1" = limits ]; then
    limits "$2"
    exit
fi
if [ -n "${JOBS-}" ]; then
    echo "compile jobs at once: $JOBS, as --jobs says" >&2
    echo "$JOBS"
    exit
fi
{
    awk '/^MemTotal:/ { printf "memory %.0f\n", $2 * 1024 }' "${ROOT-}/proc/meminfo"
    # Without these files there is no limit to be found.
    limits "" || echo "reading the limits of the control group failed" >&2
    printf '%s\n' "${LIMITS-}"
} | awk -v cores="$(nproc)" -v gib="$1" '
    $1 == "memory" && (bytes == "" || $2 + 0 < bytes + 0) { bytes = $2; room = $3 }
    $1 == "cpus" && (quota == "" || $2 + 0 < quota + 0) { quota = $2; clock = $3 }
    END {
        jobs = cores
        why = cores (cores == 1 ? " core" : " cores")
        if (quota != "" && quota + 0 < jobs) {
            jobs = int(quota) + (quota > int(quota))
            why = why ", a CPU quota of " quota " (" clock ")"
        }
        if (int(bytes / 1073741824 / gib) < jobs) jobs = int(bytes / 1073741824 / gib)
        if (jobs < 1) jobs = 1
        why = why sprintf(", %.1f GiB of memory", bytes / 1073741824) (room == "" ? "" : " (limit of " room ")") " for up to " gib " GiB each"
        print "compile jobs at once: " jobs ": " why > "/dev/stderr"
        print jobs
    }'
