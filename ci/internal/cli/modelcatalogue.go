package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

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

// build says what the repository shall hold, given what it holds.
func (p *publishModelsCommand) build(ctx context.Context, head *hfhub.Head) ([]hfhub.File, error) {
	old, err := p.catalogue(ctx, head)
	if err != nil {
		return nil, err
	}
	texts, err := p.licenceTexts(ctx, head, old)
	if err != nil {
		return nil, err
	}
	files := texts
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
	catalogue := old.With(mine...)
	card, err := catalogue.Card(p.source.Endpoint, p.repo)
	if err != nil {
		return nil, err
	}
	notice, err := catalogue.Notice()
	if err != nil {
		return nil, err
	}
	list, err := catalogue.Encode()
	if err != nil {
		return nil, err
	}
	return append(files, hfhub.File{Path: hfhub.CardName, Content: card}, hfhub.File{Path: hfhub.NoticeName, Content: notice},
		hfhub.File{Path: hfhub.CatalogueName, Content: list}), nil
}

// catalogue is what the repository says it holds, without what somebody has removed or replaced by hand.
func (p *publishModelsCommand) catalogue(ctx context.Context, head *hfhub.Head) (hfhub.Catalogue, error) {
	data, ok, err := head.Read(ctx, hfhub.CatalogueName)
	if err != nil || !ok {
		return nil, err
	}
	all, err := hfhub.DecodeCatalogue(data)
	if err != nil {
		return nil, &refusal{fmt.Errorf("%s: %w", p.repo, err), "it was not written by this command: publish to another repository, or remove the file there"}
	}
	var paths []string
	for _, m := range all {
		paths = append(paths, m.File)
	}
	digests, err := head.Digests(ctx, paths)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(m hfhub.Model) bool { return digests[m.File] != m.SHA256 }), nil
}

// isThere tells whether the repository's model is the one to publish, where that can be told without having it.
func (p *publishModelsCommand) isThere(m matrix.Model, there hfhub.Model) bool {
	_, local := p.files[m.Name]
	return !local && m.SHA256 != "" && there.Name == m.Name && there.File == fileName(m) && there.SHA256 == m.SHA256 &&
		there.Licence == m.Licence && there.Weights == m.Source
}

// fileName is what a model is called in the repository: as people ask for it, whatever it is called elsewhere.
func fileName(m matrix.Model) string { return m.Name + ".gguf" }

// licenceTexts are the texts of the licences of all that the repository will hold.
func (p *publishModelsCommand) licenceTexts(ctx context.Context, head *hfhub.Head, old hfhub.Catalogue) (files []hfhub.File, err error) {
	var planned []hfhub.Model
	for _, m := range p.models {
		planned = append(planned, hfhub.Model{Name: m.Name, Licence: m.Licence})
	}
	licences, err := old.With(planned...).Licences()
	if err != nil {
		return nil, err
	}
	for _, id := range slices.Sorted(maps.Keys(licences)) {
		l := licences[id]
		text := p.given[id]
		if text == nil && l.Text != "" {
			text = []byte(l.Text)
		}
		if text == nil {
			there, ok, err := head.Read(ctx, hfhub.TextName(id))
			if err != nil {
				return nil, err
			}
			if !ok {
				return nil, &refusal{fmt.Errorf("the %s wants a copy of its text beside the files", l.Name),
					"save it from " + l.Link + " and give it by --licence " + id + "=FILE; once published, it need not be given again"}
			}
			text = there
		}
		files = append(files, hfhub.File{Path: hfhub.TextName(id), Content: text})
	}
	return files, nil
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
		return madeModel{}, &refusal{fmt.Errorf("describing %s: %w", m.Name, err), "only whole GGUF files of one part are published"}
	}
	if kind := header.Quantisation(); kind != "" && !strings.HasSuffix(strings.ToLower(m.Name), strings.ToLower(kind)) {
		p.term.warnf("%s has the quantization %s according to its header", m.Name, kind)
	}
	sum, size, err := hfhub.Digest(ctx, local, p.show(m, "reading", "read"))
	if err != nil {
		return madeModel{}, err
	}
	if m.SHA256 != "" && (sum != m.SHA256 || size != m.Size) {
		return madeModel{}, &refusal{fmt.Errorf("checking %s: %s has %d bytes and the sha256 %s, models.yaml says %d and %s", m.Name, local, size, sum, m.Size, m.SHA256),
			"it is another file, or a damaged one: bring the right one, or change models.yaml"}
	}
	ready := madeModel{local: local, Model: hfhub.Model{
		Name: m.Name, File: fileName(m), Size: size, SHA256: sum,
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
