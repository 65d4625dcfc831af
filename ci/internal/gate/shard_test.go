package gate

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// matches reports whether test-backend-ops takes a name for one of a shard's: it searches for a pattern that is not all of
// capitals, digits and _.
func (s shard) matches(name string) bool {
	return slices.ContainsFunc(s.patterns, func(pattern string) bool { return regexp.MustCompile(pattern).MatchString(name) })
}

// Whatever operations there are, and whatever was not listed, each belongs to exactly one shard; its cases are counted once.
func TestShardsOf(t *testing.T) {
	plain := regexp.MustCompile(`^[A-Z0-9_]+$`)
	many := map[string]int{}
	for i := range 300 {
		many[fmt.Sprintf("OP%d_%c", i, 'A'+i%26)] = i % 41 * 50
	}
	for name, listed := range map[string]map[string]int{
		"llama.cpp": {"ADD": 101, "ADD_ID": 64, "CONV_2D": 3143, "CONV_2D_DW": 12, "CPY": 598, "FLASH_ATTN_EXT": 5305, "FLOOR": 20, "IM2COL": 300, "IM2COL_3D": 2051, "MUL": 700, "MUL_MAT": 1681, "MUL_MAT_ID": 943, "RMS_NORM": 7},
		"one":       {"ADD": 1},
		"large":     {"A": shardCases + 1},
		"prefixes":  {"A": shardCases, "AB": shardCases, "ABC": shardCases, "B": 1},
		"equal":     {"AAAA1": shardCases, "AAAA2": shardCases},
		"full":      {"A1": shardCases / 2, "A2": shardCases / 2, "B": 1},
		"many":      many,
	} {
		t.Run(name, func(t *testing.T) {
			operations := map[string]operation{}
			names := []string{"", "A", "Z", "_", "0", "RMS_NORM_MUL_ADD", "TOPK_MOE", "MUL_MAT_HADAMARD", "ADD_ADD", "FLASH", "FLASH_ATTN_EXT_2", "AA", "AAAA", "AAAA3", "ABCD", "AZ"}
			for name, n := range listed {
				names = append(names, name, name+"_X", name[:len(name)-1], name[1:])
				operations[name] = operation{listed: n, supported: n}
			}
			shards := shardsOf(operations)
			for _, name := range names {
				if name == "" {
					continue // no operation is called that
				}
				var in []string
				cases := 0
				for _, s := range shards {
					if s.matches(name) {
						in = append(in, strings.Join(s.patterns, ","))
						cases = s.cases
					}
				}
				if len(in) != 1 {
					t.Errorf("%s is in the shards %q, want one", name, in)
				} else if cases < listed[name] {
					t.Errorf("%s has %d cases, and its shard %d", name, listed[name], cases)
				}
			}
			sum, want := 0, 0
			for i, s := range shards {
				sum += s.cases
				if i > 0 && s.cases > shards[i-1].cases {
					t.Error("the shards do not begin with the largest")
				}
				of := 0
				for operation := range listed {
					if s.matches(operation) {
						of++
					}
				}
				if s.cases > shardCases && of > 1 {
					t.Errorf("the shard %q has %d cases of %d operations", s.patterns, s.cases, of)
				}
				for _, pattern := range s.patterns {
					// A comma ends a pattern, a bracket makes it the name of a case, and a plain word stands for itself alone.
					if strings.ContainsAny(pattern, ",()") || plain.MatchString(pattern) {
						t.Errorf("test-backend-ops takes %q for something else than a pattern", pattern)
					}
				}
			}
			for _, n := range listed {
				want += n
			}
			if sum != want {
				t.Errorf("the shards have %d cases, want %d", sum, want)
			}
		})
	}
}
