package fetch

import (
	"context"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/matrix"
)

// Options are what the user asks of a plan or an installation. The zero value is: whatever is best
// here.
type Options struct {
	// Release is a tag; empty is the one installed, else the newest.
	Release string
	// Row allows that bundle alone, and AllowCPU one that serves no GPU.
	Row      matrix.Row
	AllowCPU bool
	// Update looks for the newest release although one is installed.
	Update bool
	// Force downloads and unpacks again what is installed.
	Force bool
	// AllowOlder takes a release that is older than the one installed, without its having been
	// asked for by its tag.
	AllowOlder bool
	// Remember has the installation remember the client's Mirrors, even where it is all there
	// already.
	Remember bool
}

// A Download is an archive that an installation needs.
type Download struct {
	Asset string `json:"asset"`
	Size  int64  `json:"size"`
	// Have is how many bytes of it are here already: all of them, or those of an interrupted run.
	Have int64    `json:"have"`
	URLs []string `json:"urls"`
}

// A Plan is what Install would do.
type Plan struct {
	Release  string `json:"release"`
	SignedBy string `json:"signed_by"`
	From     string `json:"from"`
	// Pointer named the release as the current one; nil where the user named it, or a folder that
	// has no pointer.
	Pointer  *PlanPointer       `json:"pointer,omitempty"`
	Decision manifests.Decision `json:"decision"`
	// Libraries are the CUDA libraries found on this machine that the bundle would be linked to.
	Libraries []manifests.CUDALibrary `json:"libraries"`
	Downloads []Download              `json:"downloads"`
}

// A PlanPointer is the release pointer that a plan goes by.
type PlanPointer struct {
	Number   int64     `json:"number"`
	Issued   time.Time `json:"issued"`
	Expires  time.Time `json:"expires"`
	SignedBy string    `json:"signed_by"`
	From     string    `json:"from"`
}

// Plan says what Install would do, and changes nothing. Where no bundle fits, the error is a
// *manifests.NoBundleError, and the plan has its trace.
func (c *Client) Plan(ctx context.Context, o Options) (Plan, error) {
	host, _, err := c.Detect(ctx)
	if err != nil {
		return Plan{}, err
	}
	r, err := c.resolveNamed(ctx, o.Release)
	if err != nil {
		return Plan{}, err
	}
	best, err := c.makeOffer(r, host, o)
	return best.Plan, err
}
