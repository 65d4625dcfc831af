package fetch

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/transfer"
)

// Each class of error, however deeply wrapped, beside others.
func TestClassify(t *testing.T) {
	network := &transfer.NetworkError{Name: "x", Err: &transfer.StatusError{URL: "http://x", Code: 404}}
	for _, test := range []struct {
		name string
		err  error
		want Class
	}{
		{"nothing special", errors.New("x"), Failed},
		{"interrupted", context.Canceled, Interrupted},
		{"interrupted while the network failed", errors.Join(network, context.Canceled), Interrupted},
		{"too late is not interrupted", context.DeadlineExceeded, Failed},
		{"a name", &NameError{Kind: "model", Name: "x"}, Usage},
		{"a name that is none", &hub.RefError{Problem: "x"}, Usage},
		{"trust", &TrustError{errors.New("x"), ""}, Untrusted},
		{"trust before network", errors.Join(network, &TrustError{errors.New("x"), ""}), Untrusted},
		{"no pointer", &TrustError{&NoPointerError{[]string{"http://x"}}, ""}, Untrusted},
		{"a digest behind a network error", &transfer.NetworkError{Name: "x", Err: &transfer.DigestError{}}, Untrusted},
		{"a size", &transfer.NetworkError{Name: "x", Err: &transfer.SizeError{}}, Untrusted},
		{"an archive", &store.ArchiveError{}, Untrusted},
		{"a model that is another", &hub.MismatchError{}, Untrusted},
		{"damage", &DamageError{}, Untrusted},
		{"no GPU", &manifests.NoBundleError{Lack: manifests.LackGPU}, NoGPU},
		{"no driver", &manifests.NoBundleError{Lack: manifests.LackDriver}, NoGPU},
		{"no room", &manifests.NoBundleError{Lack: manifests.LackDisk}, Disk},
		{"no bundle", &manifests.NoBundleError{}, NoBundle},
		{"a full disk", &transfer.SpaceError{}, Disk},
		{"a full disk, elsewhere", fmt.Errorf("x: %w", unix.ENOSPC), Disk},
		{"a full quota", fmt.Errorf("x: %w", unix.EDQUOT), Disk},
		{"a file larger than the disk, or the shell, allows", fmt.Errorf("x: %w", unix.EFBIG), Disk},
		{"offline", &OfflineError{"x"}, NotOffline},
		{"a model offline", &hub.OfflineError{}, NotOffline},
		{"the network", network, Network},
		{"the Hub", &hub.NetworkError{Err: errors.New("x")}, Network},
		{"an answer", &transfer.StatusError{Code: 500}, Network},
	} {
		for _, err := range []error{test.err, fmt.Errorf("installing: %w", test.err), errors.Join(errors.New("y"), test.err)} {
			if got := Classify(err); got != test.want {
				t.Errorf("%s: %v: class %d, want %d", test.name, err, got, test.want)
			}
		}
	}
}
