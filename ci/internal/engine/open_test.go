package engine

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestExposed(t *testing.T) {
	for _, public := range []string{
		"tcp://203.0.113.1:1234", "tcp://8.8.8.8", "TCP://8.8.8.8:1", "tcp://[2001:4860:4860::8888]:1234", "tcp://[::ffff:8.8.8.8]:1234",
		"tcp://172.32.0.1:1", "tcp://100.128.0.1:1", "http://8.8.8.8:1/path", "tcp://user@8.8.8.8:1",
	} {
		if got := Exposed(t.Context(), []string{"unix:///run/a.sock", public}); !cmp.Equal(got, []string{public}) {
			t.Errorf("%s: exposed are %q", public, got)
		}
	}
	private := []string{
		"tcp://127.0.0.1:1234", "tcp://127.8.8.8:1", "tcp://localhost:1234", "tcp://10.0.0.2:1234", "tcp://172.16.0.1:1", "tcp://192.168.1.1:1",
		"tcp://100.64.0.1:1", "tcp://[::1]:1", "tcp://[fd00::1]:1", "tcp://[fe80::1]:1", "tcp://0.0.0.0:1", "unix:///run/8.8.8.8", "docker-container://8.8.8.8",
		"tcp://name.invalid:1", "tcp://", "",
	}
	if got := Exposed(t.Context(), private); len(got) > 0 {
		t.Errorf("exposed are %q", got)
	}
	t.Setenv(runnerHostVar, "tcp://10.0.0.1:1,tcp://8.8.8.8:1")
	if diff := cmp.Diff([]string{"tcp://8.8.8.8:1"}, Exposed(t.Context(), nil)); diff != "" {
		t.Errorf("from the environment (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string(nil), Exposed(t.Context(), []string{"tcp://10.0.0.1:1"}), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("hosts that are given come first (-want +got):\n%s", diff)
	}
}
