package matrix_test

import (
	"testing"

	"github.com/waqasm86/llcuda-farm/matrix"
)

func TestCompareVersions(t *testing.T) {
	for _, test := range []struct {
		a, b string
		want int
	}{
		{"550.54.14", "550.54.14", 0},
		{"550.54.14", "550.54.15", -1},
		{"580.159.04", "580.159.4", 0},
		{"580.159.04", "550.54.14", 1},
		{"525.60.13", "525.105.17", -1}, // as numbers, not as text
		{"535", "525.60.13", 1},
		{"525.60", "525.60.13", -1},
		{"2.35", "2.35.0", 0},
		{"2.4", "2.35", -1},
		{"", "", 0},
		{"", "0.0", 0},
		{"", "0.1", -1},
		{"99999999999999999999999", "99999999999999999999998", 1},
		{"N/A", "0", -1},
		{"470.x", "470.0", -1},
		{"a", "b", -1},
	} {
		if got := matrix.CompareVersions(test.a, test.b); got != test.want {
			t.Errorf("CompareVersions(%q, %q) = %d, want %d", test.a, test.b, got, test.want)
		}
		if got := matrix.CompareVersions(test.b, test.a); got != -test.want {
			t.Errorf("CompareVersions(%q, %q) = %d, want %d", test.b, test.a, got, -test.want)
		}
	}
}

func TestIsVersion(t *testing.T) {
	for s, want := range map[string]bool{
		"12.4.1": true, "535": true, "2.35": true,
		"": false, ".": false, "2.": false, ".35": false, "2..35": false, "v2.35": false, "2.35 ": false, "2.35-rc": false, "٢": false,
	} {
		if got := matrix.IsVersion(s); got != want {
			t.Errorf("IsVersion(%q) = %t, want %t", s, got, want)
		}
	}
}
