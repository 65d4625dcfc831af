package gate

import (
	"bytes"
	"cmp"
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/waqasm86/llcuda-farm/ci/internal/failure"
	"github.com/waqasm86/llcuda-farm/manifests/variants"
)

// The backends of ggml that can be checked, and their first devices.
const (
	cudaBackend, cudaDevice = "CUDA", "CUDA0"
	cpuBackend, cpuDevice   = "CPU", "CPU"
)

// essential are operations without which the GPU computes no model: a backend that takes none of their cases is broken,
// though each case by itself is only "not supported".
var essential = []string{"ADD", "CONT", "CPY", "FLASH_ATTN_EXT", "GET_ROWS", "MUL", "MUL_MAT", "MUL_MAT_ID", "RMS_NORM", "ROPE", "SET_ROWS", "SOFT_MAX"}

// OpsOptions say how operations are checked.
type OpsOptions struct {
	// CPU checks the CPU backend with its own reference instead, for machines without a GPU.
	CPU bool
	// Jobs is how many processes run at once: each holds tensors on the GPU, and computes them on the CPU as well.
	Jobs int
	// Limit is the time that each process may take.
	Limit time.Duration
}

// An OpsReport is how the operations did.
type OpsReport struct {
	Device      string
	Operations  int      // that were compared
	Passed      int      // cases that computed what the CPU did
	Total       int      // cases that the backend supports
	Unsupported []string // operations of which the backend supports no case, ascending
	Failures    []OpsFailure
}

// An OpsFailure is something that did not go as it must: a case, or a whole process.
type OpsFailure struct {
	What   string // "MUL_MAT(type_a=f16,…)", or what a process was to check
	Detail string // what test-backend-ops said of it
}

func (f OpsFailure) String() string {
	if f.Detail == "" {
		return f.What
	}
	return f.What + ": " + f.Detail
}

// Err is a *failure.Refusal if anything failed.
func (r OpsReport) Err() error {
	if len(r.Failures) == 0 {
		return nil
	}
	return failure.Refuse(fmt.Errorf("checking operations on %s: %d of %d cases are equal to the CPU's; failures: %d", cmp.Or(r.Device, "an unknown device"), r.Passed, r.Total, len(r.Failures)),
		"a bundle that computes something else must not be released: look for the operation in llama.cpp's issues, and try another compiler or an earlier llama.cpp")
}

// CheckOps compares every operation of a bundle's CUDA backend with the CPU's, by llama.cpp's test-backend-ops, of the very
// llama.cpp that the bundle is of. It calls progress with how many of how many processes have ended. The error is what kept
// it from looking, or a *failure.Refusal if there was nothing to look at; what is wrong is in the report.
func CheckOps(ctx context.Context, b *Bundle, program string, o OpsOptions, progress func(done, total int)) (OpsReport, error) {
	c := &opsCheck{bundle: b, OpsOptions: o, backend: cudaBackend, device: cudaDevice}
	if o.CPU {
		c.backend, c.device = cpuBackend, cpuDevice
	}
	if err := c.install(program); err != nil {
		return OpsReport{}, err
	}
	listed, err := c.list(ctx)
	if err != nil {
		return OpsReport{}, err
	}
	shards := shardsOf(listed)
	results := make([]shardResult, len(shards))
	var mu sync.Mutex
	done := 0
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(max(1, o.Jobs))
	for i, s := range shards {
		group.Go(func() error {
			results[i] = c.run(ctx, s)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			done++
			progress(done, len(shards))
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return OpsReport{}, err
	}
	return report(listed, shards, results), nil
}

// An opsCheck is one CheckOps under way.
type opsCheck struct {
	OpsOptions
	bundle          *Bundle
	backend, device string
}

const opsProgram = "test-backend-ops"

// install puts the program beside the bundle's own, where it finds the bundle's backends.
func (c *opsCheck) install(program string) error {
	data, err := os.ReadFile(program)
	if errors.Is(err, fs.ErrNotExist) {
		return failure.Input(err, "go run ./ci ops makes it")
	}
	if err == nil {
		err = os.WriteFile(c.bundle.program(opsProgram), data, 0o755)
	}
	if err != nil {
		return fmt.Errorf("installing %s: %w", program, err)
	}
	return nil
}

// execute runs test-backend-ops on the device.
func (c *opsCheck) execute(parent context.Context, args ...string) (stdout, stderr string, problem string) {
	ctx, cancel := context.WithTimeout(parent, c.Limit)
	defer cancel()
	cmd := c.bundle.command(ctx, opsProgram, append(args, "-b", c.device)...)
	if c.bundle.Metadata.Row.PTX {
		// A cache of its own: that of the user may hold what another driver, or another run, compiled.
		cmd.Env = append(cmd.Env, "CUDA_CACHE_PATH="+filepath.Join(c.bundle.dir, "jit"), "CUDA_CACHE_MAXSIZE=4294967296")
	}
	var out, log bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &log, time.Second
	err := cmd.Run()
	switch {
	case ctx.Err() != nil:
		problem = fmt.Sprintf("it did not end within %s", c.Limit)
	case err != nil:
		problem = variants.Ending(err)
	}
	return out.String(), log.String(), problem
}

// operation is how many cases of an operation test-backend-ops lists, and how many of them the backend supports.
type operation struct{ listed, supported int }

// list asks which cases there are. Cases of several operations at once, which backends fuse, are not among them.
func (c *opsCheck) list(ctx context.Context) (map[string]operation, error) {
	out, log, problem := c.execute(ctx, "support", "--output", "csv")
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	listed := map[string]operation{}
	if problem == "" {
		var err error
		if listed, err = parseList(out, c.backend, c.device); err != nil {
			problem = err.Error()
		}
	}
	if problem != "" {
		return nil, failure.Refuse(fmt.Errorf("listing the operations of %s on %s: %s\n%s", c.bundle.Name, c.device, problem, lastLines(log)),
			"check-ops needs an NVIDIA GPU that the bundle has code for; --cpu checks the CPU backend, for trying out")
	}
	return listed, nil
}

// parseList reads the CSV of test-backend-ops support.
func parseList(text, backend, device string) (map[string]operation, error) {
	reader := csv.NewReader(strings.NewReader(text))
	header, err := reader.Read()
	if err != nil {
		return nil, fmt.Errorf("its list cannot be read: %w", err)
	}
	column := map[string]int{}
	for _, name := range []string{"backend_name", "backend_reg_name", "op_name", "supported"} {
		if column[name] = slices.Index(header, name); column[name] < 0 {
			return nil, fmt.Errorf("its list has no column %s", name)
		}
	}
	listed := map[string]operation{}
	supported := 0
	for {
		row, err := reader.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("its list cannot be read: %w", err)
		}
		if row[column["backend_name"]] != device || row[column["backend_reg_name"]] != backend {
			return nil, fmt.Errorf("it listed the device %s of the backend %s", row[column["backend_name"]], row[column["backend_reg_name"]])
		}
		name := row[column["op_name"]]
		if !operationForm.MatchString(name) {
			return nil, fmt.Errorf("it listed an operation named %q", name)
		}
		of := listed[name]
		of.listed++
		if row[column["supported"]] == "1" {
			of.supported++
			supported++
		}
		listed[name] = of
	}
	if supported == 0 {
		return nil, fmt.Errorf("the backend %s has no device %s, or supports none of %d cases", backend, device, len(listed))
	}
	return listed, nil
}

// run has one process check a shard.
func (c *opsCheck) run(ctx context.Context, s shard) shardResult {
	out, log, problem := c.execute(ctx, "test", "-o", strings.Join(s.patterns, ","))
	result := parseResults(out, c.device)
	switch {
	case problem != "" && !(result.problem == "" && len(result.failed) > 0): // which it reports by its exit code as well
		if result.problem != "" {
			problem += "; " + result.problem
		}
		result.problem = problem + "\n" + lastLines(log)
	case problem == "" && len(result.failed) > 0:
		result.problem = "it ended well, though cases failed"
	}
	return result
}

// report sums up what the processes reported.
func report(listed map[string]operation, shards []shard, results []shardResult) OpsReport {
	var r OpsReport
	reported, passed := map[string]int{}, map[string]int{}
	for i, result := range results {
		r.Device = cmp.Or(r.Device, result.device)
		r.Total += result.total
		for _, one := range result.cases {
			reported[one.operation]++
			if one.state == caseOK {
				passed[one.operation]++
				r.Passed++
			}
		}
		for _, name := range result.failed {
			r.Failures = append(r.Failures, OpsFailure{name, result.detail(name)})
		}
		if result.problem != "" {
			r.Failures = append(r.Failures, OpsFailure{opsProgram + " -o " + strings.Join(shards[i].patterns, ","), result.problem})
		}
	}
	for _, name := range slices.Sorted(maps.Keys(listed)) {
		switch want := listed[name]; {
		case reported[name] < want.listed:
			r.Failures = append(r.Failures, OpsFailure{name, fmt.Sprintf("%d cases were reported, and there are %d", reported[name], want.listed)})
		case want.supported == 0:
			r.Unsupported = append(r.Unsupported, name)
		}
	}
	for _, name := range essential {
		if passed[name] == 0 {
			r.Failures = append(r.Failures, OpsFailure{name, "no case of it was computed, and no model runs without it"})
		}
	}
	r.Operations = len(passed)
	return r
}
