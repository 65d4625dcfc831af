# baseline.sh FILE... refuses instructions that x86-64's baseline lacks: a CPU that has them is asked for by the names of
# the CPU variants alone. A compiler option that strays, or a header's own #pragma, shows here and nowhere else.
set -eu
export LC_ALL=C

# BMI's tzcnt is what GCC makes of __builtin_ctz for any CPU: an older one reads bsf. miniaudio, in libmtmd, asks CPUID
# before it uses lzcnt. xgetbv is how a program asks what the system saves.
for file in "$@"; do
    [ ! -L "$file" ] || continue
    allowed=tzcnt
    case $file in */libmtmd.so*) allowed='tzcnt|lzcnt' ;; esac
    objdump --disassemble --no-show-raw-insn "$file" | awk -F '\t' -v file="${file##*/}" -v allowed="^($allowed)\$" '
        NF > 1 {
            read++
            split($2, word, " ")
            name = word[1]
            if (name ~ /^(rep|repz|repnz|lock|notrack|bnd|data16|cs|ds)$/) name = word[2]
            if (name !~ /^(v|\{vex|\{evex)/ && $2 !~ /%[yz]mm|%k[0-7]|%tmm/ && name !~ /^(lddqu|haddp[sd]|hsubp[sd]|addsubp[sd]|mov(sh|sl|d)dup|p(abs|sign)[bwd]|ph(add|sub)(w|d|sw)|pshufb|pmulhrsw|pmaddubsw|palignr|p?blend(v?)(b|w|ps|pd)|(blend|dp)p[sd]|round[sp][sd]|pmov[sz]x[a-z]+|pm(ul|in|ax)(l?d|dq|s[bd]|u[wd])|p(extr|insr)[bdq]|extractps|insertps|packusdw|pcmpeqq|pcmpgtq|pcmp[ei]str[im]|phminposuw|ptest|mpsadbw|movntdqa|crc32[bwlq]?|popcnt[wlq]?|lzcnt[wlq]?|tzcnt[wlq]?|andn|bextr|bls(i|r|msk)|bzhi|mulx|pdep|pext|rorx|sarx|shlx|shrx|movbe|aes[a-z0-9]+|pclmul[a-z]+|sha(1|256)[a-z0-9]+|rd(rand|seed)|adcx|adox|cmpxchg16b|gf2p8[a-z]+|tile[a-z]+|tdp[a-z0-9]+)$/) next
            if (name ~ allowed) next
            count[name]++
        }
        END {
            if (!read) { print file ": no instructions were read"; exit 1 }
            for (name in count) {
                if (!said++) printf "%s has instructions that the baseline of x86-64 lacks:", file
                printf " %s (%d times)", name, count[name]
            }
            if (said) {
                print "; only a CPU variant may be compiled with -march or -m options"
                exit 1
            }
        }'
done
