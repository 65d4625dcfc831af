package sbom

import (
	"regexp"
	"strings"
)

// An npm package without a licence file is described by one line: "MIT, by somebody".
var byline = regexp.MustCompile(`^(MIT|ISC|Apache-2\.0|BSD-2-Clause|BSD-3-Clause|0BSD|CC0-1\.0|Unlicense), by [^\n]+$`)

// recognize names the licence that a text is, by SPDX's list; empty where it is another, or more than one.
func recognize(text string) string {
	if match := byline.FindStringSubmatch(text); match != nil {
		return match[1]
	}
	text = strings.ToLower(strings.Join(strings.Fields(text), " "))
	var found []string
	for _, licence := range []struct {
		id    string
		marks []string // all of them
	}{
		{"MIT", []string{"permission is hereby granted, free of charge, to any person obtaining a copy", "the above copyright notice and this permission notice"}},
		{"Apache-2.0", []string{"apache license version 2.0, january 2004"}},
		{"BSL-1.0", []string{"boost software license - version 1.0"}},
		{"BSD", []string{"redistribution and use in source and binary forms, with or without modification, are permitted"}},
		{"ISC", []string{"permission to use, copy, modify, and/or distribute this software for any purpose with or without fee is hereby granted, provided that the above copyright notice"}},
		{"Unlicense", []string{"free and unencumbered software released into the public domain"}},
		{"other", []string{"mozilla public license"}},
		{"other", []string{"general public license"}},
		{"other", []string{"this software is available as a choice"}},
		{"other", []string{"this software is available under 2 licenses"}},
	} {
		all := true
		for _, mark := range licence.marks {
			all = all && strings.Contains(text, mark)
		}
		if all {
			found = append(found, licence.id)
		}
	}
	if len(found) != 1 || found[0] == "other" {
		return ""
	}
	if found[0] != "BSD" {
		return found[0]
	}
	// The third clause forbids the use of names, in several wordings of who they are.
	if strings.Contains(text, "neither the name") || strings.Contains(text, "neither the names") {
		return "BSD-3-Clause"
	}
	return "BSD-2-Clause"
}
