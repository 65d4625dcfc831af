package gate

import (
	"cmp"
	"maps"
	"slices"
	"strings"
)

// shardCases is how many cases a shard has at most, unless one operation has more: small enough for the shards to end at
// about the same time, and large enough for what starting CUDA takes not to count.
const shardCases = 1000

// A shard is what one process checks: the operations whose names match one of the patterns.
type shard struct {
	patterns []string
	cases    int // that were listed
}

// shardsOf divides all names that there may be into shards, those with the most cases first. test-backend-ops does not list
// the names of the cases that backends fuse (RMS_NORM_MUL_ADD, TOPK_MOE), so names are divided by how they begin, and every
// name, listed or not, belongs to exactly one shard.
func shardsOf(listed map[string]operation) []shard {
	names := slices.Sorted(maps.Keys(listed))
	var shards []shard
	rest := shard{} // where nothing was listed
	var divide func(prefix string, names []string)
	divide = func(prefix string, names []string) {
		s := shard{patterns: []string{"^" + prefix}}
		for _, name := range names {
			s.cases += listed[name].listed
		}
		if s.cases <= shardCases || len(names) == 1 {
			shards = append(shards, s)
			return
		}
		var next []byte
		for len(names) > 0 {
			if names[0] == prefix {
				shards = append(shards, shard{[]string{"^" + prefix + "$"}, listed[prefix].listed})
				names = names[1:]
				continue
			}
			letter := names[0][len(prefix)]
			n := slices.IndexFunc(names, func(name string) bool { return name[len(prefix)] != letter })
			if n < 0 {
				n = len(names)
			}
			divide(prefix+string(letter), names[:n])
			next = append(next, letter)
			names = names[n:]
		}
		rest.patterns = append(rest.patterns, "^"+prefix+"[^"+string(next)+"]")
		if _, ok := listed[prefix]; !ok && prefix != "" {
			rest.patterns = append(rest.patterns, "^"+prefix+"$")
		}
	}
	divide("", names)
	if len(rest.patterns) > 0 {
		shards = append(shards, rest)
	}
	slices.SortStableFunc(shards, func(a, b shard) int {
		return cmp.Or(cmp.Compare(b.cases, a.cases), strings.Compare(a.patterns[0], b.patterns[0]))
	})
	return shards
}
