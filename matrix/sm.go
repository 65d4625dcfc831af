package matrix

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// An SM is a compute capability as nvcc writes it: 75 is 7.5, 120 is 12.0. Its JSON is that integer.
type SM int

// ParseSM reads "75", "sm75", "sm_75" and "7.5". Nothing else is taken for an SM: the variants sm_90a and sm_100f,
// whose code runs on one chip or family only, are not in the matrix's vocabulary.
func ParseSM(s string) (SM, error) {
	digits := s
	if after, ok := strings.CutPrefix(s, "sm"); ok {
		digits = strings.TrimPrefix(after, "_")
	} else if major, minor, ok := strings.Cut(s, "."); ok && major != "" && len(minor) == 1 {
		digits = major + minor
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || !SM(n).Valid() || digits[0] == '0' {
		return 0, fmt.Errorf("reading compute capability %q: want 75, sm75, sm_75 or 7.5", s)
	}
	return SM(n), nil
}

// Valid reports whether s can be a compute capability: 1.0 to 99.9.
func (s SM) Valid() bool { return s >= 10 && s <= 999 }

// String is "sm75".
func (s SM) String() string { return "sm" + strconv.Itoa(int(s)) }

// Capability is "7.5".
func (s SM) Capability() string { return fmt.Sprintf("%d.%d", s.Major(), s.Minor()) }

// Major is 7 for 7.5.
func (s SM) Major() int { return int(s) / 10 }

// Minor is 5 for 7.5.
func (s SM) Minor() int { return int(s) % 10 }

// Architecture is NVIDIA's name of the generation, or "" where this table ends.
func (s SM) Architecture() string {
	switch {
	case s >= 50 && s <= 53:
		return "Maxwell"
	case s >= 60 && s <= 62:
		return "Pascal"
	case s >= 70 && s <= 72:
		return "Volta"
	case s == 75:
		return "Turing"
	case s >= 80 && s <= 88:
		return "Ampere"
	case s == 89:
		return "Ada Lovelace"
	case s == 90:
		return "Hopper"
	case s.Major() >= 10 && s.Major() <= 12:
		return "Blackwell"
	}
	return ""
}

// A Row names a row of the matrix, and the bundle that the farm builds for it: an SM's machine code, or its PTX. Its JSON
// is the SM's integer, or for PTX a text: 90, "ptx90".
type Row struct {
	SM  SM
	PTX bool
}

// IsZero reports whether r names no row.
func (r Row) IsZero() bool { return r == Row{} }

// ptxPrefix begins the names of rows of PTX.
const ptxPrefix = "ptx"

// ParseRow reads what ParseSM reads, and "ptx90".
func ParseRow(s string) (Row, error) {
	digits, ptx := strings.CutPrefix(s, ptxPrefix)
	sm, err := ParseSM(digits)
	if row := (Row{sm, ptx}); err == nil && (!ptx || s == row.String()) {
		return row, nil
	}
	return Row{}, fmt.Errorf("reading compute capability %q: want 75, sm75, sm_75 or 7.5, or ptx90 for the bundle of PTX", s)
}

// String is "sm75", or "ptx90".
func (r Row) String() string {
	if r.PTX {
		return ptxPrefix + strconv.Itoa(int(r.SM))
	}
	return r.SM.String()
}

// Short is "75", or "ptx90": the form in which people type it.
func (r Row) Short() string {
	if r.PTX {
		return r.String()
	}
	return strconv.Itoa(int(r.SM))
}

// Capability is "7.5", or "PTX 9.0".
func (r Row) Capability() string {
	if r.PTX {
		return "PTX " + r.SM.Capability()
	}
	return r.SM.Capability()
}

// Compare orders rows by SM, PTX after machine code.
func (r Row) Compare(other Row) int {
	after := func(r Row) int {
		if r.PTX {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(r.SM, other.SM), cmp.Compare(after(r), after(other)))
}

// MarshalJSON writes 75 or "ptx90".
func (r Row) MarshalJSON() ([]byte, error) {
	if r.PTX {
		return json.Marshal(r.String())
	}
	return json.Marshal(r.SM)
}

// UnmarshalJSON reads what MarshalJSON writes, and nothing else.
func (r *Row) UnmarshalJSON(data []byte) error {
	var text string
	if len(data) == 0 || data[0] != '"' {
		r.PTX = false
		return json.Unmarshal(data, &r.SM)
	}
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	row, err := ParseRow(text)
	if err != nil || !row.PTX {
		return fmt.Errorf("reading a bundle's SM %q: want 75 or %q", text, "ptx90")
	}
	*r = row
	return nil
}

// A Code is what device code is compiled for: an SM, and where its features are not those of every later GPU, the
// variant that says so. Its JSON is the SM's integer, or with a variant a text: 75, "120a".
type Code struct {
	SM SM
	// Variant is "a" for an architecture-specific target (sm_120a), "f" for a family-specific one (sm_120f), else "".
	// https://docs.nvidia.com/cuda/cuda-compiler-driver-nvcc/#gpu-feature-list
	Variant string
}

// String is "75" or "120a", as CMAKE_CUDA_ARCHITECTURES has it.
func (c Code) String() string { return strconv.Itoa(int(c.SM)) + c.Variant }

// Compare orders targets by SM, then variant.
func (c Code) Compare(other Code) int {
	return cmp.Or(cmp.Compare(c.SM, other.SM), cmp.Compare(c.Variant, other.Variant))
}

// MarshalJSON writes 75 or "120a".
func (c Code) MarshalJSON() ([]byte, error) {
	if c.Variant == "" {
		return json.Marshal(c.SM)
	}
	return json.Marshal(c.String())
}

// UnmarshalJSON reads what MarshalJSON writes, and nothing else.
func (c *Code) UnmarshalJSON(data []byte) error {
	var text string
	if len(data) == 0 || data[0] != '"' {
		c.Variant = ""
		return json.Unmarshal(data, &c.SM)
	}
	if err := json.Unmarshal(data, &text); err != nil {
		return err
	}
	for _, variant := range []string{"a", "f"} {
		digits, ok := strings.CutSuffix(text, variant)
		sm, err := ParseSM(digits)
		if ok && err == nil && text == (Code{sm, variant}).String() {
			*c = Code{sm, variant}
			return nil
		}
	}
	return fmt.Errorf("reading device code's target %q: want 75 or %q", text, "120a")
}

// RunsCubin reports whether a GPU of this SM runs machine code compiled for cubin: the same major, and a minor that
// is not newer; of an architecture-specific target exactly its own SM.
// https://docs.nvidia.com/cuda/cuda-c-programming-guide/#binary-compatibility excludes Tegra, whose SMs
// (5.3, 6.2, 7.2, 8.7) run only their own cubins and whose code runs nowhere else; a caller that selects for such a
// machine knows that it is one (it is arm64) and need not ask.
func (gpu SM) RunsCubin(cubin Code) bool {
	if cubin.Variant == "a" {
		return gpu == cubin.SM
	}
	return gpu.Major() == cubin.SM.Major() && gpu.Minor() >= cubin.SM.Minor()
}

// RunsPTX reports whether a driver can compile PTX of ptx for a GPU of this SM: any PTX that is not newer than the
// GPU; PTX with a variant is as bound as machine code. Toolkit.DriverPTX covers whether the driver itself is new enough.
func (gpu SM) RunsPTX(ptx Code) bool {
	if ptx.Variant != "" {
		return gpu.RunsCubin(ptx)
	}
	return ptx.SM <= gpu
}
