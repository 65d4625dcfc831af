package trial

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/waqasm86/llcuda-farm/manifests/gguf/tinygguf"
	"github.com/waqasm86/llcuda-farm/manifests/variants"
)

// scores are the logarithms of the tokens' probabilities, for each of the two prompts.
type scores [2]map[int]float64

func (s scores) compare(with scores) (off float64, problem string) {
	for i := range s {
		if len(s[i]) != len(with[i]) {
			return 0, fmt.Sprintf("it scored %d tokens instead of %d", len(s[i]), len(with[i]))
		}
		for token, want := range with[i] {
			got, ok := s[i][token]
			if !ok {
				return 0, fmt.Sprintf("it did not score token %d", token)
			}
			off = max(off, math.Abs(got-want))
		}
	}
	if off > tolerance {
		return off, fmt.Sprintf("it computes something else than %s: the logarithms of the probabilities differ by up to %.2f, and may by %.2f", plainest, off, tolerance)
	}
	return off, ""
}

// score starts a server on the chosen variant, and asks it.
func (t *trial) score(parent context.Context, model string) (got scores, problem string, err error) {
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()
	at := filepath.Join(t.stage.Dir, socket)
	if err := os.Remove(at); err != nil && !errors.Is(err, os.ErrNotExist) {
		return got, "", err
	}
	cmd, err := t.stage.Command(ctx, os.Environ(), "llama-server", "-m", model+modelSuffix, "--host", socket, "-ngl", "0",
		"-t", "2", "-np", "1", "-c", "512", "--no-warmup")
	if err != nil {
		return got, "", err
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &out, time.Second
	if err := cmd.Start(); err != nil {
		return got, "", err
	}
	ended, answered := make(chan error, 1), make(chan error, 1)
	go func() { ended <- cmp.Or(cmd.Wait(), errors.New("it ended by itself")) }()
	go func() {
		var err error
		got, err = ask(ctx, at)
		answered <- err
	}()
	var exit error // of a server that ended before it was told to
	var bad *answerError
	select {
	case exit = <-ended:
		cancel()
		<-answered
	case err = <-answered:
		if err != nil && !errors.As(err, &bad) && ctx.Err() == nil { // perhaps since it died
			select {
			case exit = <-ended:
			case <-time.After(time.Second):
			}
		}
		if ctx.Err() != nil {
			err = fmt.Errorf("it did not answer within %s", limit)
		}
		if cancel(); exit == nil {
			<-ended
		}
	}
	switch {
	case exit != nil:
		return got, variants.Ending(exit), nil
	case parent.Err() != nil:
		return got, "", parent.Err()
	case errors.As(err, &bad):
		return got, bad.Error(), nil
	case err != nil:
		return got, fmt.Sprintf("%v\n%s", err, lastLines(out.String())), nil
	}
	return got, "", nil
}

// answerError is an answer that is not a score.
type answerError struct{ problem string }

func (e *answerError) Error() string { return e.problem }

// ask waits for the server and has it score the token after a prompt, and after the prompt and one token more.
func ask(ctx context.Context, socket string) (got scores, err error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx, socket)
	}}}
	for {
		response, err := request(ctx, client, http.MethodGet, "health", nil)
		if err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				break
			}
		}
		select {
		case <-ctx.Done():
			return got, ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
	prompt := make([]int, promptTokens)
	for i := range prompt {
		prompt[i] = tinygguf.Words + i*37%tinygguf.WordCount
	}
	for i, tokens := range []int{promptTokens - 1, promptTokens} {
		if got[i], err = completion(ctx, client, prompt[:tokens]); err != nil {
			return got, err
		}
	}
	return got, nil
}

// dial reaches a socket by its folder: an address has no more than 107 bytes.
func dial(ctx context.Context, socket string) (net.Conn, error) {
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var d net.Dialer
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket)))
}

func request(ctx context.Context, client *http.Client, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost/"+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return client.Do(req)
}

// completion asks for one token and every token's score. https://github.com/ggml-org/llama.cpp/tree/master/tools/server
func completion(ctx context.Context, client *http.Client, prompt []int) (map[int]float64, error) {
	body, err := json.Marshal(map[string]any{"prompt": prompt, "n_predict": 1, "n_probs": tinygguf.Tokens, "temperature": 0, "cache_prompt": true})
	if err != nil {
		return nil, err
	}
	response, err := request(ctx, client, http.MethodPost, "completion", body)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	const most = 1 << 20
	text, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err != nil {
		return nil, err
	}
	if response.StatusCode != http.StatusOK {
		return nil, &answerError{fmt.Sprintf("it answered %s: %s", response.Status, lastLines(string(text)))}
	}
	var answer struct {
		Probabilities []struct {
			Top []struct {
				ID      int      `json:"id"`
				LogProb *float64 `json:"logprob"` // null is not a number
			} `json:"top_logprobs"`
		} `json:"completion_probabilities"`
	}
	if err := json.Unmarshal(text, &answer); err != nil {
		return nil, &answerError{fmt.Sprintf("its answer is not JSON: %v", err)}
	}
	if len(answer.Probabilities) != 1 {
		return nil, &answerError{fmt.Sprintf("its answer has the scores of %d tokens, want 1", len(answer.Probabilities))}
	}
	got := map[int]float64{}
	for _, token := range answer.Probabilities[0].Top {
		if token.LogProb == nil || math.IsNaN(*token.LogProb) || math.IsInf(*token.LogProb, 0) {
			return nil, &answerError{"its scores are not numbers"}
		}
		got[token.ID] = *token.LogProb
	}
	if len(got) != tinygguf.Tokens {
		return nil, &answerError{fmt.Sprintf("it scored %d tokens, and the model has %d", len(got), tinygguf.Tokens)}
	}
	return got, nil
}

func lastLines(text string) string {
	const keep = 15
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-keep):], "\n")
}
