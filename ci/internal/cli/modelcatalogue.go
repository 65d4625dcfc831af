package cli

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/hub"
	"github.com/waqasm86/llcuda-farm/manifests/gguf"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
	"github.com/waqasm86/llcuda-farm/matrix"
	"github.com/waqasm86/llcuda-farm/publisher/hfhub"
)

// A madeModel is a model that is ready on this machine.
type madeModel struct {
	hfhub.Model
	local string
}

// build returns what the repository is to contain, given what it contains now.
func (p *publishModelsCommand) build(ctx context.Context, head *hfhub.Head) ([]hfhub.File, error) {
	old, files, err := p.held(ctx, head)
	if err != nil {
		return nil, err
	}
	var mine []hfhub.Model
	for _, m := range p.models {
		if there := slices.IndexFunc(old, func(o hfhub.Model) bool { return p.isThere(m, o) }); there >= 0 {
			mine = append(mine, old[there])
			continue
		}
		ready, err := p.make(ctx, m)
		if err != nil {
			return nil, err
		}
		mine = append(mine, ready.Model)
		files = append(files, hfhub.File{Path: ready.File, Local: ready.local, SHA256: ready.SHA256})
	}
	documents, err := old.With(mine...).Files(p.source.Endpoint, p.repo)
	return append(files, documents...), err
}

// isThere reports whether the repository's model is known, without a download, to be the one to publish.
func (p *publishModelsCommand) isThere(m matrix.Model, there hfhub.Model) bool {
	_, local := p.files[m.Name]
	return !local && there.Is(m)
}

// held returns what the repository contains, and the license texts of everything it will contain.
func (p *publishModelsCommand) held(ctx context.Context, head *hfhub.Head) (hfhub.Catalogue, []hfhub.File, error) {
	old, err := head.Catalogue(ctx)
	if err != nil {
		return nil, nil, err
	}
	var planned []hfhub.Model
	for _, m := range p.models {
		planned = append(planned, hfhub.Model{Name: m.Name, Licence: m.Licence})
	}
	texts, err := head.LicenceFiles(ctx, old.With(planned...), p.given)
	return old, texts, err
}

// make has a model ready on this machine: brought, checked, and read. It is done once, however often the head moves.
func (p *publishModelsCommand) make(ctx context.Context, m matrix.Model) (madeModel, error) {
	if ready, ok := p.made[m.Name]; ok {
		return ready, nil
	}
	local, origin := p.files[m.Name], ""
	if local == "" {
		ref := hub.Ref{Repo: m.Repo, Path: m.File, Revision: cmp.Or(m.Revision, "main")}
		got, err := p.source.Download(ctx, ref, hub.Want{Size: m.Size, SHA256: m.SHA256}, p.show(m, "downloading", "downloaded"))
		if err != nil {
			return madeModel{}, fmt.Errorf("bringing %s: %w", m.Name, err)
		}
		if got.Unasked != nil {
			return madeModel{}, fmt.Errorf("bringing %s: %w", m.Name, got.Unasked)
		}
		ref.Revision = got.Commit
		local, origin = got.Path, ref.String()
	}
	header, err := gguf.Read(local)
	if err != nil {
		return madeModel{}, failure.Refuse(fmt.Errorf("describing %s: %w", m.Name, err), "only whole GGUF files of one part are published")
	}
	if kind := header.Quantisation(); kind != "" && !strings.HasSuffix(strings.ToLower(m.Name), strings.ToLower(kind)) {
		p.term.Warnf("%s has the quantization %s according to its header", m.Name, kind)
	}
	sum, size, err := hfhub.Digest(ctx, local, p.show(m, "reading", "read"))
	if err != nil {
		return madeModel{}, err
	}
	if m.SHA256 != "" && (sum != m.SHA256 || size != m.Size) {
		return madeModel{}, failure.Refuse(fmt.Errorf("checking %s: %s has %d bytes and the sha256 %s, models.yaml says %d and %s", m.Name, local, size, sum, m.Size, m.SHA256),
			"it is another file, or a damaged one: bring the right one, or change models.yaml")
	}
	ready := madeModel{local: local, Model: hfhub.Model{
		Name: m.Name, File: hfhub.FileName(m), Size: size, SHA256: sum,
		Architecture: header.Architecture, Quantisation: header.Quantisation(), Parameters: header.Parameters, Context: header.Context,
		VRAM: hub.Memory(header), Weights: m.Source, Licence: m.Licence, Origin: origin,
	}}
	p.made[m.Name] = ready
	return ready, nil
}

// show shows a file by the name of its model.
func (p *publishModelsCommand) show(m matrix.Model, doing, done string) func(measure.Progress) {
	transfers := p.term.Transfers(doing, done)
	return func(at measure.Progress) {
		at.Name = m.Name
		transfers.Report(at)
	}
}
