package fetchcli

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/waqasm86/llcuda-farm/manifests"
	"github.com/waqasm86/llcuda-farm/manifests/fetch"
	"github.com/waqasm86/llcuda-farm/manifests/measure"
)

func (a *app) verifyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "verify",
		Short: "Verify what is installed, from the signature to the last byte",
		Example: `  llcuda-fetch verify
  llcuda-fetch verify --public-key farm.pub    # what a private farm signed`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client("verify")
			if err != nil {
				return err
			}
			current, _, err := c.Verify(cmd.Context())
			if damage, ok := errors.AsType[*fetch.DamageError](err); ok {
				if a.json {
					return errors.Join(a.print(damage.Findings), err)
				}
				for _, f := range damage.Findings {
					a.term.printf("%s: %s", f.Path, f.Detail)
				}
				return err
			}
			if errors.Is(err, fetch.ErrNotInstalled) {
				return notInstalled(err)
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.print([]fetch.Finding{})
			}
			a.warnLeftOut(c.Store.LeftOut(current))
			a.term.printf("%s of release %s is as it was published, %s", current.Bundle, current.Release, signedText(current.SignedBy))
			return nil
		},
	}
}

// A listed is an installation as list prints it.
type listed struct {
	fetch.Install
	// Current says that it is this machine's, and Kinds of which kinds of machines it is.
	Current  bool     `json:"current"`
	Kinds    []string `json:"current_for"`
	Folder   string   `json:"path"`
	Programs string   `json:"programs"`
	Size     int64    `json:"size"`
	// Devices are what the programs saw when they were tried, as install prints them; UUIDs are those of the GPUs that CUDA
	// showed.
	Devices []string `json:"devices"`
	UUIDs   []string `json:"uuids"`
	// Withdrawn is why the release was withdrawn; empty if it was not.
	Withdrawn string `json:"withdrawn,omitempty"`
	// LeftOut are the CPU variants that it does without.
	LeftOut []fetch.LeftOut `json:"left_out"`
}

func (a *app) listCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "list",
		Short: "List the installations",
		Example: `  llcuda-fetch list
  llcuda-fetch list --json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.client("list")
			if err != nil {
				return err
			}
			installs, err := c.Store.List()
			if err != nil {
				return err
			}
			current, err := c.Store.Current()
			if err != nil && !errors.Is(err, fetch.ErrNotInstalled) {
				return err
			}
			kinds, err := c.Store.Kinds()
			if err != nil {
				return err
			}
			list := []listed{}
			for _, i := range installs {
				i.Mirrors = nonNil(i.Mirrors)
				reason := ""
				if w := new(manifests.WithdrawnError); errors.As(c.Withdrawn(i.Release), &w) {
					reason = w.Reason
				}
				list = append(list, listed{
					Install: i, Current: i.ID == current.ID, Kinds: nonNil(kinds[i.ID]), Folder: c.Store.Dir(i), Programs: c.Programs(i), Size: c.Store.Size(i),
					Devices: nonNil(i.Seen), UUIDs: nonNil(i.Devices), Withdrawn: reason, LeftOut: append([]fetch.LeftOut{}, c.Store.LeftOut(i)...),
				})
			}
			if a.json {
				return a.print(list)
			}
			if len(list) == 0 {
				a.term.notef("nothing is installed in %s", shortPath(c.Store.Home))
				return nil
			}
			seen, damaged := c.Store.SeenPointers()
			for _, s := range seen {
				a.term.notef("the newest release pointer seen is number %d, for %s, until %s, signed by %s", s.Pointer.Number, s.Pointer.Release, s.Pointer.Expires.Format(time.DateOnly), s.Signer)
			}
			for _, l := range list {
				if l.Withdrawn != "" {
					a.term.warnf("release %s was withdrawn: %s; llcuda-fetch install --update installs another one", l.Release, l.Withdrawn)
				}
			}
			w := tabwriter.NewWriter(a.term.Out, 0, 0, 2, ' ', 0)
			fmt.Fprintln(w, "\tRELEASE\tBUNDLE\tSIZE\tINSTALLED\tFOR\tFROM\tSIGNED BY")
			for _, l := range list {
				mark, machine := "", l.Machine.Kind
				if l.Current {
					mark = "*"
				} else if len(l.Kinds) > 0 {
					machine += ", current there"
				}
				from := cmp.Or(strings.Join(l.Mirrors, " "), "GitHub")
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", mark, l.Release, l.Bundle, measure.Bytes(l.Size), l.Time.Local().Format("2006-01-02 15:04"), machine, from, cmp.Or(l.SignedBy, "nobody"))
			}
			err = errors.Join(w.Flush(), damaged)
			for _, l := range list {
				if l.Current {
					a.warnLeftOut(l.LeftOut)
				}
			}
			return err
		},
	}
}

func (a *app) rollbackCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "rollback",
		Short:   "Go back to the installation before the current one",
		Example: `  llcuda-fetch rollback`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client("rollback")
			if err != nil {
				return err
			}
			i, err := c.Rollback(cmd.Context())
			if errors.Is(err, fetch.ErrNotInstalled) {
				return notInstalled(err)
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.print(i)
			}
			a.term.printf("%s of release %s is current again", i.Bundle, i.Release)
			return nil
		},
	}
}

func (a *app) pruneCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove files that neither the current nor the previous installation of any machine needs",
		Long:  "Remove files that neither the current nor the previous installation of any machine needs.\n\nWithout --yes it only lists them.",
		Example: `  llcuda-fetch prune          # lists them
  llcuda-fetch prune --yes    # removes them`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client("prune")
			if err != nil {
				return err
			}
			var items []fetch.Item
			if a.yes {
				items, err = c.Prune(cmd.Context())
			} else {
				items, err = c.Store.Prunable()
			}
			if err != nil {
				return err
			}
			if a.json {
				return a.print(append([]fetch.Item{}, items...))
			}
			var total int64
			for _, item := range items {
				a.term.printf("%10s  %s", measure.Bytes(item.Size), item.Path)
				total += item.Size
			}
			switch {
			case len(items) == 0:
				a.term.notef("there is nothing to remove")
			case a.yes:
				a.term.notef("removed %s", measure.Bytes(total))
			default:
				a.term.notef("nothing was removed; llcuda-fetch prune --yes removes these %s", measure.Bytes(total))
			}
			return nil
		},
	}
	return cmd
}

// An uninstalled is what uninstall prints as JSON.
type uninstalled struct {
	Removed bool         `json:"removed"`
	Home    string       `json:"home"`
	Own     []fetch.Item `json:"own"`
	Foreign []string     `json:"foreign"`
	Client  string       `json:"client"`
	// Models are the paths of those that go as well.
	Models []string `json:"models"`
}

func (a *app) uninstallCommand() *cobra.Command {
	var client, models bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Remove everything that was installed, for all machines that use the store",
		Long: `Remove everything that was installed, for all machines that use the store, and
what was downloaded for it. Other files in the store's folder stay. Models stay in
the cache that huggingface_hub uses; --models also removes those that llcuda-fetch
models lists, no matter which program downloaded them.

Without --yes it only lists what it would remove.`,
		Example: `  llcuda-fetch uninstall                            # lists what would go
  llcuda-fetch uninstall --yes --client --models    # removes it all`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.client("uninstall")
			if err != nil {
				return err
			}
			program, err := os.Executable()
			if err != nil {
				return err
			}
			contents, err := c.Store.Contents()
			if err != nil {
				return err
			}
			there := c.Store.Exists()
			var cached []fetch.Model
			if models { // while the store still knows their names
				if cached, err = c.CachedModels(cmd.Context()); err != nil {
					return err
				}
			}
			paths := []string{}
			for _, m := range cached {
				paths = append(paths, m.Path)
				if !a.json {
					a.term.printf("%10s  %s", measure.Bytes(m.Size), m.Path)
				}
				if a.yes {
					if err := c.RemoveModel(m); err != nil {
						return err
					}
				}
			}
			if a.yes && there {
				if contents, err = c.Uninstall(cmd.Context()); err != nil {
					return err
				}
			}
			if a.yes && client {
				if err := os.Remove(program); err != nil {
					return err
				}
			}
			if a.json {
				return a.print(uninstalled{a.yes, c.Store.Home, append([]fetch.Item{}, contents.Own...), nonNil(contents.Foreign), program, paths})
			}
			a.showUninstalled(c.Store.Home, program, contents, there, client)
			return nil
		},
	}
	cmd.Flags().BoolVar(&client, "client", false, "remove this program, too")
	cmd.Flags().BoolVar(&models, "models", false, "remove the models known by name, too, from the cache that other programs share")
	return cmd
}

func (a *app) showUninstalled(home, program string, contents fetch.Contents, there, client bool) {
	var total int64
	for _, item := range contents.Own {
		a.term.printf("%10s  %s", measure.Bytes(item.Size), item.Path)
		total += item.Size
	}
	if client {
		a.term.printf("%10s  %s", "", program)
	}
	for _, name := range contents.Foreign {
		a.term.notef("%s was not made by llcuda-fetch, and stays", filepath.Join(home, name))
	}
	switch {
	case !there:
		a.term.notef("nothing is installed in %s", shortPath(home))
	case a.yes:
		a.term.notef("removed %s from %s", measure.Bytes(total), shortPath(home))
	default:
		a.term.notef("nothing was removed; llcuda-fetch uninstall --yes removes these %s from %s", measure.Bytes(total), shortPath(home))
	}
	if !client {
		a.term.notef("%s stays; --client removes it as well", program)
	}
}
