package matrix_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/waqasm86/llcuda-farm/matrix"
)

func TestRedistribution(t *testing.T) {
	for _, test := range []struct{ name, licence, want string }{
		{"tinyllama-1.1b-Q5_K_M", "apache-2.0", ""},
		{"gemma-3-1b-it-Q4_K_M", "gemma", ""},
		{"llama-3.2-1b-Q4_K_M", "llama3.2", ""},
		{"my-3.2-1b-Q4_K_M", "llama3.2", "begin with Llama"},
		{"command-r", "cc-by-nc-4.0", "not among the licenses"},
		{"anything", "other", "not among the licenses"},
		{"anything", "", "not among the licenses"},
	} {
		l, err := matrix.Model{Name: test.name, Licence: test.licence}.Redistribution()
		var refused *matrix.LicenceError
		switch {
		case test.want == "" && (err != nil || l.ID != test.licence || l.Name == "" || l.Link == ""):
			t.Errorf("%s under %s: %+v, %v", test.name, test.licence, l, err)
		case test.want != "" && (!errors.As(err, &refused) || !strings.Contains(err.Error(), test.want) || refused.Hint() == ""):
			t.Errorf("%s under %s: %v, want %q", test.name, test.licence, err, test.want)
		}
	}
	for id, want := range map[string]matrix.Licence{
		"gemma":      {Notice: "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"},
		"llama3.2":   {Notice: "Llama 3.2 is licensed under", Display: "Built with Llama"},
		"apache-2.0": {Text: "Apache License"},
	} {
		l, err := matrix.Model{Name: "llama", Licence: id}.Redistribution()
		if err != nil || !strings.Contains(l.Notice, want.Notice) || l.Display != want.Display || !strings.Contains(l.Text, want.Text) {
			t.Errorf("%s: %+v, %v", id, l, err)
		}
	}
}
