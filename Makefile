# Picket. `make demo` shows the main job, `make test` runs every test.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS   = -s -w -X main.version=$(VERSION)
PACKAGES  = ./...
PLATFORMS = linux/amd64 linux/arm64 darwin/arm64 windows/amd64 freebsd/amd64

export CGO_ENABLED = 0

.PHONY: all build demo test check lint race cross bench fuzz clean

all: build

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/picket ./cmd/picket-coordinator

# A coordinator and three nodes on this machine, joined, allowed, refused, cut, removed. KEEP=1 leaves it running.
demo: build
	$(GO) build -o bin/ ./integration/demo
	bin/demo -bin bin $(if $(KEEP),-keep) $(if $(ROOTLESS),-rootless)

# Everything: static checks, all tests with the race detector, cross-compiles. What is skipped is listed with its reason at the end.
test: lint cross race

lint:
	@files=$$(gofmt -l .); test -z "$$files" || { printf '%s\n' "$$files" 'gofmt: the files above are not formatted' >&2; exit 1; }
	$(GO) vet $(PACKAGES)
	$(GO) tool staticcheck $(PACKAGES)

# The race detector needs cgo and a C compiler; without one the tests run plain, and say so.
race:
	@sh integration/run-tests.sh

cross:
	@for p in $(PLATFORMS); do echo "build for $$p"; GOOS=$${p%/*} GOARCH=$${p#*/} $(GO) build -o /dev/null ./cmd/picket ./cmd/picket-coordinator ./picket/examples/greeter || exit 1; done

# A paired run against bare wireguard-go (as root; ROUNDS=5), then the Go benchmarks of what is on the packet's way and the map's.
bench: build
	$(GO) build -trimpath -o bin/ ./integration/bench
	bin/bench -bin bin -rounds $(or $(ROUNDS),5)
	$(GO) test -run '^$$' -bench . -benchmem -benchtime 0.5s ./wgtun/filter ./acl ./coordinator/protocol

# Each fuzz target for a short while.
fuzz:
	@for d in $$($(GO) list -f '{{.Dir}}' $(PACKAGES)); do for f in $$(grep -hoE 'func Fuzz[A-Za-z0-9_]+' $$d/*_test.go 2>/dev/null | sed 's/func //'); do \
		echo "fuzz $$f in $$d"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-10s} $$d || exit 1; done; done

clean:
	rm -rf bin
