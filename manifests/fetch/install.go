package fetch

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch/store"
)

// An Outcome is what Install did.
type Outcome struct {
	Install Install
	// Already reports whether it was there before, and nothing was done.
	Already bool
	// Decision says why, and Probe what the programs said. Both are empty where Already is set.
	Decision manifests.Decision
	Probe    store.Probe
}

// An OlderError is a release older than the one installed.
type OlderError struct{ Installed, Offered string }

func (e *OlderError) Error() string {
	return fmt.Sprintf("the mirror offers release %s, which is older than %s, the one installed", e.Offered, e.Installed)
}

// Hint says what it may mean.
func (e *OlderError) Hint() string {
	return "the mirror may be holding you at an old release; to install it anyway, give --release " + e.Offered + " or --allow-older"
}

// Install makes sure that a bundle is installed and current. If it already is, Install answers from
// the store, without network and lock.
func (c *Client) Install(ctx context.Context, o Options) (Outcome, error) {
	if err := c.Store.Trusted(); err != nil {
		return Outcome{}, err
	}
	mirrors, err := toRemember(c.Mirrors)
	if err != nil {
		return Outcome{}, err
	}
	if current, ok := c.findInstalled(o); ok && (!o.Remember || slices.Equal(mirrors, current.Mirrors)) {
		c.warnWithdrawn(current)
		return Outcome{Install: current, Already: true}, nil
	}
	l, err := c.Store.Lock(ctx, c.Command, c.Waiting)
	if is[*store.HomeError](err) {
		return c.answerReadOnly(ctx, o, err)
	}
	if err != nil {
		return Outcome{}, err
	}
	outcome, err := (&installer{c, l, o.Force}).install(ctx, o, mirrors)
	if err == nil && o.Remember && !slices.Equal(mirrors, outcome.Install.Mirrors) {
		outcome.Install, err = l.Remember(outcome.Install, mirrors)
	}
	return outcome, errors.Join(err, l.Close())
}

// An installer carries out an installation. Its methods change the store; those of its client only
// read there.
type installer struct {
	client *Client
	store  *store.Locked
	force  bool // unpacks again what is there already
}

func (w *installer) install(ctx context.Context, o Options, mirrors []string) (Outcome, error) {
	c := w.client
	// Another process may have installed it while this one waited for the lock.
	if current, ok := c.findInstalled(o); ok {
		return Outcome{Install: current, Already: true}, nil
	}
	if _, have := c.base(); !have || o != (Options{Remember: o.Remember}) { // else nothing may have to be done, and a program waits
		c.step("looking at this machine")
	}
	host, _, err := c.Detect(ctx)
	if err != nil {
		return Outcome{}, err
	}
	i, decision, recorded, err := c.findReusable(o, host)
	switch {
	case err != nil:
		return Outcome{}, err
	case recorded:
		return Outcome{Install: i, Already: true}, nil
	case i.ID != 0:
		c.tellDecision(decision)
		outcome, err := w.takeOver(ctx, i, decision)
		// A damaged installation is downloaded again, and the machine's own CUDA libraries may have
		// changed.
		if !is[*DamageError](err) && (!is[*store.ProbeError](err) || i.Runtime != "") {
			return outcome, err
		}
	}
	if o.Row.IsZero() && !o.AllowCPU {
		if none := host.NoGPU(); none != nil { // no network is needed to know
			return Outcome{}, none
		}
	}
	best, err := c.choose(ctx, host, o, w.store.SeePointer)
	if err != nil {
		return Outcome{Decision: best.Decision}, err
	}
	c.tellDecision(best.Decision)
	if current, err := c.Store.Current(); err == nil && !o.Force && c.isInstalled(best, current, o) {
		return Outcome{Install: current, Already: true}, nil
	}
	return w.add(ctx, best, c.describeOffer(best, o, mirrors))
}

// add brings an offer into the store, tries it, and makes it the current installation.
func (w *installer) add(ctx context.Context, best offer, i Install) (Outcome, error) {
	c := w.client
	base, have := c.base()
	if err := w.adopt(ctx, best.release, best.bundle, i.RuntimeNames); err != nil {
		return Outcome{}, err
	}
	probe, err := w.linkAndTry(ctx, best, &i)
	if err == nil && c.Host == nil {
		c.step("trying the CPU")
		probe.LeftOut, err = w.store.TryVariants(ctx, i)
	}
	if err != nil {
		if have && base.Folder == i.Folder && len(base.Libraries) > 0 { // the links of the one that stays
			_, back := w.store.Link(w.store.Dir(base), base.Libraries)
			err = errors.Join(err, back)
		}
		return Outcome{}, err
	}
	if err := w.store.Keep(i.Release, best.release.Documents); err != nil {
		return Outcome{}, err
	}
	i.LlamaCPP, i.Seen = probe.Version, probe.Devices
	if i, err = w.store.Activate(i); err != nil {
		return Outcome{}, err
	}
	return Outcome{Install: i, Decision: best.Decision, Probe: probe}, nil
}
