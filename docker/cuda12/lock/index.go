package main

import (
	"bufio"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/waqasm86/llcuda-farm/docker/cuda12"
)

// debianPackage is what a stanza of a Packages file says about one package.
type debianPackage struct {
	name, version    string
	essential        bool
	priority         string
	depends          []string // each an "a | b (>= 1)" group
	provides         []string
	filename, sha256 string
	size             int64
}

func (p debianPackage) lock(kind cuda12.Kind) cuda12.Package {
	return cuda12.Package{Kind: kind, Name: p.name, Version: p.version, Path: p.filename, Size: p.size, SHA256: p.sha256}
}

// index holds the packages of one or more Packages files by name, and by the
// virtual names they provide.
type index struct {
	byName    map[string]debianPackage
	ambiguous map[string]bool // in it with more than one version
	providers map[string][]string
}

func newIndex() *index {
	return &index{byName: make(map[string]debianPackage), ambiguous: make(map[string]bool), providers: make(map[string][]string)}
}

// read adds the stanzas of a Packages file.
func (x *index) read(r io.Reader) error {
	const longestLine = 4 << 20 // some Provides lists run to hundreds of kilobytes
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, longestLine)
	var p debianPackage
	flush := func() error {
		if p.name == "" {
			return nil
		}
		if p.filename == "" || p.sha256 == "" || p.size == 0 {
			return fmt.Errorf("reading index: %s lacks Filename, SHA256 or Size", p.name)
		}
		if _, twice := x.byName[p.name]; twice {
			x.ambiguous[p.name] = true
		}
		x.byName[p.name] = p
		for _, virtual := range p.provides {
			x.providers[virtual] = append(x.providers[virtual], p.name)
		}
		p = debianPackage{}
		return nil
	}
	for lines.Scan() {
		line := lines.Text()
		if line == "" {
			if err := flush(); err != nil {
				return err
			}
			continue
		}
		if line[0] == ' ' || line[0] == '\t' {
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch field {
		case "Package":
			p.name = value
		case "Version":
			p.version = value
		case "Essential":
			p.essential = value == "yes"
		case "Priority":
			p.priority = value
		case "Depends", "Pre-Depends":
			p.depends = append(p.depends, strings.Split(value, ",")...)
		case "Provides":
			for _, virtual := range strings.Split(value, ",") {
				p.provides = append(p.provides, bareName(virtual))
			}
		case "Filename":
			p.filename = value
		case "SHA256":
			p.sha256 = value
		case "Size":
			size, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return fmt.Errorf("reading index: size of %s: %w", p.name, err)
			}
			p.size = size
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("reading index: %w", err)
	}
	return flush()
}

// closure returns the wanted packages and all they depend on, sorted by name.
// have counts as installed. Version bounds are left to dpkg: within one frozen
// suite they hold, and install.sh fails where they do not.
func (x *index) closure(wanted []string, have map[string]bool) ([]debianPackage, error) {
	chosen := make(map[string]bool) // installed, or will be: what decides between alternatives
	for name := range have {
		chosen[name] = true
	}
	var queue []string
	add := func(name string) {
		if !chosen[name] {
			chosen[name] = true
			queue = append(queue, name)
		}
	}
	for _, name := range wanted {
		add(name)
	}
	var found []debianPackage
	for len(queue) > 0 {
		name := queue[0]
		queue = queue[1:]
		p, ok := x.byName[name]
		if !ok {
			return nil, fmt.Errorf("resolving %s: no such package in the index", name)
		}
		if x.ambiguous[name] {
			return nil, fmt.Errorf("resolving %s: the index has several versions of it", name)
		}
		found = append(found, p)
		for _, group := range p.depends {
			next, err := x.satisfy(group, chosen)
			if err != nil {
				return nil, fmt.Errorf("resolving %s: %w", name, err)
			}
			if next != "" {
				add(next)
			}
		}
	}
	slices.SortFunc(found, func(a, b debianPackage) int { return strings.Compare(a.name, b.name) })
	return found, nil
}

// satisfy picks what fulfills one dependency group: nothing if a chosen package
// does, else the first alternative that exists, else the only or first
// provider of it.
func (x *index) satisfy(group string, chosen map[string]bool) (string, error) {
	var names []string
	for _, alternative := range strings.Split(group, "|") {
		names = append(names, bareName(alternative))
	}
	for _, name := range names {
		if chosen[name] || slices.ContainsFunc(x.providers[name], func(p string) bool { return chosen[p] }) {
			return "", nil
		}
	}
	for _, name := range names {
		if _, ok := x.byName[name]; ok {
			return name, nil
		}
	}
	for _, name := range names {
		if providers := x.providers[name]; len(providers) > 0 {
			return slices.Min(providers), nil
		}
	}
	return "", fmt.Errorf("nothing gives %q", strings.TrimSpace(group))
}

// bareName takes the version bound and the architecture off a dependency.
func bareName(dependency string) string {
	name, _, _ := strings.Cut(dependency, "(")
	name, _, _ = strings.Cut(name, ":")
	return strings.TrimSpace(name)
}
