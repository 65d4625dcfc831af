# The commands of README.md and docs/farm.md. Everything else is `go run ./ci --help`.

RELEASE ?= v1.1.0-runtime
SM      ?= 75
OUT     ?= dist
GO      ?= go

.PHONY: build client test packages bench fuzz lint clean

## build: the main job for one SM on the real llama.cpp: make build SM=86
build:
	$(GO) run ./ci build --sm $(SM) --release $(RELEASE) --out $(OUT)

## client: llcuda-fetch and install.sh, from the commit that is checked out, into the same folder
client:
	$(GO) run ./ci client $(OUT)

## test: everything, on a real engine and a real nvcc; starts the engine by itself. The engine's own
## tests are last and alone: they look at what is left on the host, which others change meanwhile.
test: packages lint
	$(GO) test -p 2 -timeout 60m $$($(GO) list ./... | grep -v ci/internal/engine/builtin)
	$(GO) test -timeout 60m ./ci/internal/engine/builtin
	cd docker/engine && $(GO) test ./...

# What the tests run: gcc makes small libraries to break, busybox tries install.sh, shellcheck reads it, node runs the
# official clients of GitHub and of the Hugging Face Hub, which npm brings; chromium shows the page that ci site writes;
# the benchmarks compare with curl and zstd.
# Python's tools come into an environment that python3 makes: manifests/python/tests/requirements.lock.
packages:
	@for program in gcc busybox shellcheck curl zstd node npm chromium; do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	    python3 -c 'import ensurepip' 2>/dev/null || missing="$$missing python3-venv"; test -z "$$missing" || \
	    { apt-get update && apt-get install -y --no-install-recommends $$(echo $$missing | sed 's/node/nodejs/; s/gcc/gcc libc6-dev/'); }

## lint: formatting, vet, scripts, and the modules of their own
lint: packages
	@test -z "$$(gofmt -l .)" || { gofmt -l .; echo "run gofmt -w on these"; exit 1; }
	$(GO) vet ./...
	cd docker/engine && $(GO) mod verify >/dev/null
	shellcheck publisher/installer/install.sh
	$(GO) tool -modfile=ci/tools/go.mod actionlint
	$(GO) run ./manifests/python/tool ruff check manifests/python
	$(GO) run ./manifests/python/tool ruff format --check manifests/python
	cd manifests/python && $(GO) run ./tool mypy
	cd publisher/hftest/server && $(GO) mod verify >/dev/null && $(GO) vet ./...
	cd publisher/cosigntest/stack && $(GO) mod verify >/dev/null && $(GO) vet ./...

## bench: CPU seconds and wall time of each stage, and the farm beside full builds
bench: packages
	$(GO) test -run '^$$' -bench . -benchtime 1x -timeout 60m ./...

## fuzz: each fuzz target for a while
FUZZTIME ?= 30s
fuzz:
	@for package in $$($(GO) list ./...); do \
	    for target in $$($(GO) test -list '^Fuzz' $$package | grep '^Fuzz'); do \
	        echo "$$package $$target"; \
	        $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$package || exit 1; \
	    done; \
	done

clean:
	rm -rf $(OUT)
