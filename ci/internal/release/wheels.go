package release

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/bundler"
	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/ci/internal/farm"
	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/sbom"
	"github.com/waqasm86/llcuda-farm/publisher/wheel"
)

// ruleWheel is broken by a wheel that is not as wheels must be, or has another client than the
// folder.
const ruleWheel = "wheel"

// CheckWheels checks the Python package of a release against what a wheel must be, and against the
// client beside it. A release may have none: the first ones did not.
func (d Dir) CheckWheels(ctx context.Context, release string, epoch int64) ([]publisher.Finding, error) {
	present, err := d.Names()
	if err != nil {
		return nil, err
	}
	names := slices.DeleteFunc(present, func(name string) bool { return !manifests.IsWheel(name) })
	if len(names) == 0 {
		return nil, nil
	}
	work, remove, err := bundler.Scratch(ctx, "", "wheel")
	if err != nil {
		return nil, err
	}
	defer remove()
	contents, err := d.WheelContents(ctx, work, release, epoch)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err != nil {
		return []publisher.Finding{{Name: wheel.Client(), Rule: ruleWheel, Detail: fmt.Sprintf("what is in the wheels cannot be compared: %v", err)}}, nil
	}
	var findings []publisher.Finding
	var want []string
	for _, name := range names {
		data, err := os.ReadFile(d.Path(name))
		if err != nil {
			return nil, err
		}
		for _, problem := range wheel.Check(name, data, contents) {
			findings = append(findings, publisher.Finding{Name: name, Rule: ruleWheel, Detail: problem})
		}
		if version, _, err := wheel.Parse(name); err == nil {
			want = append(want, wheel.Names(version)...)
		}
	}
	slices.Sort(want)
	for _, name := range slices.Compact(want) {
		if !slices.Contains(names, name) {
			findings = append(findings, publisher.Finding{Name: name, Rule: publisher.RuleMissing,
				Detail: fmt.Sprintf("there are %s: a release has both wheels of one version", strings.Join(names, ", "))})
		}
	}
	return findings, nil
}

// WheelContents unpacks the archive of the client that goes into the wheel, and makes its bill of
// materials as Sign does.
func (d Dir) WheelContents(ctx context.Context, to, release string, epoch int64) (wheel.Contents, error) {
	name := wheel.Client()
	if !exists(d.Path(name)) {
		return wheel.Contents{}, failure.Input(fmt.Errorf("%s has no %s to put into the wheel", d, name), "go run ./ci client "+string(d)+" makes it")
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return wheel.Contents{}, err
	}
	if _, err := farm.Unpack(ctx, d.Path(name), to); err != nil {
		return wheel.Contents{}, err
	}
	artifact, err := d.asset(name)
	if err != nil {
		return wheel.Contents{}, err
	}
	bill, err := d.clientBill(artifact, release, time.Unix(epoch, 0))
	return wheel.Contents{Client: os.DirFS(to), Bill: bill}, err
}

// clientBill is the bill of materials of an archive of the client, or of a wheel.
func (d Dir) clientBill(artifact manifests.Artifact, release string, created time.Time) ([]byte, error) {
	if manifests.IsWheel(artifact.Name) {
		version, _, err := wheel.Parse(artifact.Name)
		if err != nil {
			return nil, err
		}
		data, err := os.ReadFile(d.Path(artifact.Name))
		if err != nil {
			return nil, err
		}
		return sbom.Wheel(data, artifact, version, created)
	}
	f, err := os.Open(d.Path(artifact.Name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return sbom.Client(f, artifact, release, created)
}
