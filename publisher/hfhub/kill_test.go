package hfhub

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waqasm86/llcuda-farm/manifests/killtest"
	"github.com/waqasm86/llcuda-farm/publisher/hftest"
)

// jobVariable makes the test's program a publisher that does one job and ends, so that it can be
// killed.
const jobVariable = "HFHUB_TEST_JOB"

type job struct {
	Hub, Repo string
	Seed      uint64
}

// files are a card and two large files that the storage has not seen.
func (j job) files() []File {
	content := func(n uint64, size int) []byte {
		b := make([]byte, size)
		random := rand.NewPCG(j.Seed, n)
		for i := range b {
			b[i] = byte(random.Uint64())
		}
		return b
	}
	return []File{
		{Path: "README.md", Content: fmt.Appendf(nil, "---\nlicense: mit\n---\n# Number %d\n", j.Seed)},
		{Path: "basic.gguf", Content: content(1, 12_000)},
		{Path: "parts.gguf", Content: content(2, 110_000)},
	}
}

func (j job) publish(ctx context.Context) error {
	client := &Client{Endpoint: j.Hub, Tokens: StaticToken(hftest.WriteToken), FirstWait: time.Millisecond, Stall: 20 * time.Second}
	_, err := client.Publish(ctx, j.Repo, these(j.files()), Options{})
	return err
}

func TestMain(m *testing.M) {
	if text := os.Getenv(jobVariable); text != "" {
		var j job
		err := json.Unmarshal([]byte(text), &j)
		if err == nil {
			err = j.publish(context.Background())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// A publisher that is killed at any moment leaves the old head or the new one, never half of one; a
// plain run after it ends with every file once and whole, in one commit.
func TestKill(t *testing.T) {
	rounds := 200
	if testing.Short() {
		rounds = 20
	}
	hub := startHub(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	run := func(j job) *exec.Cmd {
		text, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), jobVariable+"="+string(text))
		return cmd
	}
	holds := func(j job) bool {
		files := j.files()
		large := map[string]string{}
		for _, f := range files[1:] {
			large[f.Path] = listed(t, []File{f})[f.Path].SHA256
		}
		return cmp.Equal(large, hub.Large(j.Repo)) && string(hub.Read(j.Repo, "main", "README.md")) == string(files[0].Content)
	}
	var old job
	var before string         // the head
	landed, untouched := 0, 0 // before the kill
	killer := killtest.New(1, time.Second)
	// A busy machine shifts the kills past the commit: more rounds give it as many before that.
	for i := 0; i < rounds || untouched < rounds/4 && i < 2*rounds; i++ {
		const each = 20 // rounds of a repository: hfd takes longer from commit to commit
		if i%each == 0 {
			old = job{Hub: hub.URL, Repo: fmt.Sprintf("org/kill-%d", i/each), Seed: uint64(5000 + i)}
			if err := old.publish(t.Context()); err != nil {
				t.Fatal(err)
			}
			before = hub.Commits(old.Repo, 1)[0].ID
		}
		j := job{Hub: hub.URL, Repo: old.Repo, Seed: uint64(1000 + i)}
		if _, err := killer.Run(run(j)); err != nil {
			t.Fatal(err)
		}
		if hub.Commits(j.Repo, 1)[0].ID == before {
			untouched++
		} else {
			landed++
			if !holds(j) {
				t.Fatalf("round %d: half a publication", i)
			}
		}
		if err := j.publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		log := hub.Commits(j.Repo, 2)
		if !holds(j) || len(log) != 2 || log[1].ID != before {
			t.Fatalf("round %d: the repository is not what the plain run should have left, in one commit on %s: %+v", i, before, log)
		}
		old, before = j, log[0].ID
	}
	if files, _ := hub.Files(old.Repo); !cmp.Equal(listed(t, old.files()), files) {
		t.Errorf("the repository holds %+v", files)
	}
	t.Logf("%d of %d runs were killed; %d landed their commit", killer.Killed(), landed+untouched, landed)
	if landed == 0 || untouched < rounds/4 {
		t.Errorf("%d kills came after the commit and %d before it: they missed what they are for", landed, untouched)
	}
}

// The same holds for a publisher that is killed while it creates the repository.
func TestKillCreating(t *testing.T) {
	hub := startHub(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	killer := killtest.New(2, 80*time.Millisecond)
	for i := range 20 {
		j := job{Hub: hub.URL, Repo: fmt.Sprintf("org/new-%d", i), Seed: uint64(2000 + i)}
		text, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), jobVariable+"="+string(text))
		if _, err := killer.Run(cmd); err != nil {
			t.Fatal(err)
		}
		if err := j.publish(t.Context()); err != nil {
			t.Fatal(err)
		}
		files, count := hub.Files(j.Repo)
		if diff := cmp.Diff(listed(t, j.files()), files); diff != "" || count != 2 {
			t.Errorf("round %d: %d commits; what the repository holds (-want +got):\n%s", i, count, diff)
		}
	}
}
