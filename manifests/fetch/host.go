package fetch

import (
	"context"
	"os"
	"slices"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/detect"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/launch"
)

// Detect says what the machine is: this one, or the one that the client answers for.
func (c *Client) Detect(ctx context.Context) (manifests.Host, []Source, error) {
	if c.Host != nil {
		host := *c.Host
		host.CUDALibraries = slices.DeleteFunc(slices.Clone(host.CUDALibraries), detect.IsFromStore)
		if c.Detected != nil {
			c.Detected(host)
		}
		return host, []Source{{Name: "the file given", Gave: "everything"}}, nil
	}
	report, err := c.Detector.Detect(ctx)
	if err == nil && c.Detected != nil {
		c.Detected(report.Host)
	}
	return report.Host, report.Sources, err
}

// machine is the one that the client answers for, as the store tells them apart.
func (c *Client) machine() launch.Machine {
	if c.Host == nil {
		return launch.ThisMachine(os.LookupEnv)
	}
	data, _ := c.Host.Encode() // a host that cannot be encoded is distinguished from those that can
	digest := digestOf(data)
	const digits = 12
	return launch.Machine{Kind: launch.DescribedKind + digest[:digits], Fingerprint: digest, Folders: []string{}}
}
