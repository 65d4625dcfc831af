package ghrelease_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"testing"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/fetch/fetchtest"
	"github.com/waqasm86/llcuda-farm/manifests/killtest"
	"github.com/waqasm86/llcuda-farm/publisher"
	"github.com/waqasm86/llcuda-farm/publisher/ghrelease"
	"github.com/waqasm86/llcuda-farm/publisher/ghtest"
)

// With these set the test's own program is a publisher, which can be killed.
const (
	publishDir  = "GHRELEASE_TEST_DIR"
	publishRepo = "GHRELEASE_TEST_REPO"
	publishAPI  = "GHRELEASE_TEST_API"
)

func TestMain(m *testing.M) {
	if os.Getenv(publishDir) == "" {
		os.Exit(m.Run())
	}
	if err := publishOnce(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func publishOnce(ctx context.Context) error {
	store, err := ghrelease.New(os.Getenv(publishRepo), ghrelease.Options{APIURL: os.Getenv(publishAPI), Token: os.Getenv("GITHUB_TOKEN")})
	if err != nil {
		return err
	}
	folder, err := publisher.OpenFolder(ctx, os.Getenv(publishDir))
	if err != nil {
		return err
	}
	_, err = publisher.Publish(ctx, store, folder, publisher.Options{FirstWait: 2 * time.Millisecond, Grace: 20 * time.Millisecond, Settle: 2 * time.Second})
	return err
}

// A run that is killed at any moment leaves at most one draft with anything in it, in which nothing
// whole is wrong, and the next plain run completes it.
func TestKilledAtAnyMoment(t *testing.T) {
	const kills = 200
	dir := fetchtest.New(t, fetchtest.Options{Padding: 60_000}).Dir
	folder, err := publisher.OpenFolder(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	server := ghtest.New(t, ghtest.Options{ListLag: 15 * time.Millisecond})
	command := func(repo string) (*exec.Cmd, *bytes.Buffer) {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), publishDir+"="+dir, publishRepo+"="+repo, publishAPI+"="+server.APIURL, "GITHUB_TOKEN="+server.Token)
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		return cmd, &out
	}
	plain := func(repo string) {
		if cmd, out := command(repo); cmd.Run() != nil {
			t.Fatalf("a plain run: %s", out)
		}
		wantPublished(t, server, repo, folder)
	}
	server.AddRepository("octo/warm")
	plain("octo/warm")
	killer := killtest.New(1, time.Second)
	random := rand.New(rand.NewPCG(1, 2))
	drafts, whole := 0, 0
	for round := 0; killer.Killed() < kills; round++ {
		repo := fmt.Sprintf("octo/round-%d", round)
		server.AddRepository(repo)
		for more, public := 1+random.IntN(3), false; more > 0 && !public; more-- {
			cmd, out := command(repo)
			if _, err := killer.Run(cmd); err != nil {
				t.Fatalf("a run after a kill: %v\n%s", err, out)
			}
			full := 0
			for _, release := range server.Releases(repo) {
				wantNothingWrong(t, release, folder)
				switch {
				case !release.Draft:
					public = true
					full++
					wantFiles(t, release, folder)
				case len(release.Assets) > 0:
					drafts++
					full++
				}
			}
			if public {
				whole++
			}
			if full > 1 {
				t.Fatalf("round %d: %+v", round, server.Releases(repo))
			}
		}
		plain(repo)
		if t.Failed() {
			t.Fatalf("round %d", round)
		}
	}
	t.Logf("%d runs were killed; they left %d filled drafts and %d public releases", killer.Killed(), drafts, whole)
	if drafts < kills/20 {
		t.Errorf("the kills came too early or too late: %d filled drafts", drafts)
	}
}

// Two or more concurrent runs, however they interfere, produce exactly one release, which is correct.
func TestPublishersAtOnce(t *testing.T) {
	folder := newFolder(t, fetchtest.Options{Padding: 60_000})
	for round := range 25 {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			random := rand.New(rand.NewPCG(uint64(round), 7))
			server := ghtest.New(t, ghtest.Options{ListLag: time.Duration(random.IntN(60)) * time.Millisecond, Immutable: round%5 == 0})
			if round%3 == 0 {
				server.Fail(ghtest.Fault{On: ghtest.Upload, At: ghtest.Middle, Times: 2, Skip: random.IntN(6)}, ghtest.Fault{On: ghtest.Create, At: ghtest.After},
					ghtest.Fault{On: ghtest.Promote, At: ghtest.After, Status: 502})
			}
			var group sync.WaitGroup
			errs := make([]error, 2+round%2)
			for i := range errs {
				wait := time.Duration(random.IntN(40)) * time.Millisecond
				group.Go(func() {
					time.Sleep(wait)
					_, errs[i] = publisher.Publish(t.Context(), newStore(t, server, ghrelease.Options{}), folder, fast(t))
				})
			}
			group.Wait()
			for i, err := range errs {
				if err != nil {
					t.Errorf("publisher %d: %v", i, err)
				}
			}
			wantPublished(t, server, ghtest.Repository, folder)
		})
	}
}
