# make build   the programs and plugins, in bin/
# make demo    a whole installation on loopback that rotates real credentials and proves its claims
# make test    everything that can be tested here, on real servers that are quickly had
# make test-all  that, and what needs servers that are built once and kept (the second tier)
# make lint    vet, staticcheck, gofumpt, generated code is current
# make postgres DIR=...   a throw-away PostgreSQL to try things on, until it is stopped
# make soak    faults at random moments of rotations, on the programs as shipped, for FOR (SEED=... draws the same again)
# make fuzz    every fuzz test, each for FUZZTIME (ONLY=client.Fuzz: those whose folder and name match); make fuzz-minute: a minute in all
# make bench   the figures, each beside its floor (ARGS=-json: as JSON); bench-rotation, bench-plugins, bench-scripts, bench-accounts, bench-agents: one of them
# make proto   regenerate the protobuf code; make sql the queries; make docs the generated pages
.PHONY: build plugins demo postgres test test-proof test-others test-all servers soak lint bench bench-rotation bench-plugins bench-scripts bench-accounts bench-agents proto sql docs fuzz clean fuzz-minute check-generated

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
TOOL    := go tool -modfile=tools.mod
# No cgo and no machine paths, so that the same source gives the same bytes and
# the agent can pin its plugins by hash.
GOBUILD := CGO_ENABLED=0 go build -trimpath -buildvcs=false
LDFLAGS := -s -w -buildid= -X github.com/rotunda-pam/rotunda/internal/version.Version=$(VERSION)
PLUGINS := ad aws kubernetes ldap lua mongodb mysql postgres redis ssh

# BIN and TAGS let the tests build programs with fault points beside the shipped ones.
BIN  ?= bin
TAGS ?=

build: plugins
	$(GOBUILD) -tags '$(TAGS)' -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/rotunda ./cmd/rotunda-server
	$(GOBUILD) -tags '$(TAGS)' -ldflags "$(LDFLAGS) -X github.com/rotunda-pam/rotunda/agent.builtinPlugins=$$(ls $(BIN)/plugins | tr '\n' ',')" -o $(BIN)/ ./cmd/rotunda-agent

# Each plugin's file is named by its hash, and the agent built after them carries
# the hashes. Plugins have no tags: those of another folder can be taken as they are.
PLUGINS_OF =
plugins:
	@rm -rf $(BIN)/plugins.new && mkdir -p $(BIN)/plugins.new
	@if [ -n "$(PLUGINS_OF)" ]; then cp "$(PLUGINS_OF)"/plugins/* $(BIN)/plugins.new/; exit; fi; \
	$(GOBUILD) -ldflags '-s -w -buildid=' -o $(BIN)/plugins.new/ $(PLUGINS:%=./plugins/%) && \
	cd $(BIN)/plugins.new && for p in $(PLUGINS); do \
		mv $$p $$p@$$(sha256sum <$$p | cut -d' ' -f1) || exit 1; \
	done
	@rm -rf $(BIN)/plugins && mv $(BIN)/plugins.new $(BIN)/plugins

# The demo's server is a curious one, which writes down what it decrypts; the agent, the
# command line and the plugins, which must give nothing away to it, are those of bin/.
demo: build
	@$(GOBUILD) -tags fault -ldflags '$(LDFLAGS)' -o .demo/rotunda-server ./cmd/rotunda-server
	@CGO_ENABLED=0 go run ./cmd/internal/demo -bin $(BIN) -server .demo/rotunda-server

postgres:
	@mkdir -p .demo && CGO_ENABLED=0 go build -o .demo/postgres ./cmd/internal/postgres && exec .demo/postgres -dir "$(DIR)"

# RACE=1 tests under the race detector, as CI does. It takes longer, and a C compiler, which
# nothing else here does. Its programs end a second late unless told otherwise. SQLite
# itself, translated from C, takes ten times as long under it, and has locks of its own: it is
# left out, with what stands in for C's library; so is what only computes, which has nothing to
# lock: compression, hashes, curves, lattices. (Not more than these: other packages share their
# copies of sync's generic code with ours, which would then be left out, too.)
RACE    ?=
FIPS    := crypto/internal/fips140
NO_RACE := modernc.org/sqlite/lib modernc.org/libc modernc.org/memory compress/flate \
	golang.org/x/crypto/argon2 golang.org/x/crypto/blake2b golang.org/x/crypto/scrypt $(FIPS)/sha256 $(FIPS)/sha512 $(FIPS)/sha3 \
	$(FIPS)/bigmod $(FIPS)/edwards25519 $(FIPS)/edwards25519/field $(FIPS)/nistec $(FIPS)/nistec/fiat $(FIPS)/mlkem
RACED   := $(if $(RACE),$(shell command -v gcc >/dev/null 2>&1 && echo -race $(NO_RACE:%=-gcflags=%=-race=false)))
# The proof takes longest, and much of that is waiting for the programs that it starts, into
# which no detector of its own would look: it goes on beside all else, compiled as make build
# has compiled what it stands on.
# What is compiled bears no path, so that another clone need not compile it again; what was
# tested once is tested again; go vet is make lint's. Of the others those that take longest
# begin first, and one more at a time than there are cores, as many of them wait for servers. The example's kit is
# run by ./docs, where its reader runs it.
GOTESTSUM = $$($(TOOL) -n gotestsum) --format pkgname --
test: build
	@test -n "$(RACED)" || echo "race detector: left out, $(if $(RACE),no gcc here,RACE=1 asks for it)"
	@rm -rf .report && mkdir -p .report
	@$(MAKE) --no-print-directory -j 2 test-proof test-others
	@cat .report/* 2>/dev/null || true

test-proof test-others: export ROTUNDA_REPORT = $(CURDIR)/.report
test-proof test-others: export ROTUNDA_BIN = $(CURDIR)/bin
test-proof:
	CGO_ENABLED=0 $(GOTESTSUM) -vet=off -trimpath -buildvcs=false -count 1 -timeout 50m ./internal/proof

test-others:
	CGO_ENABLED=$(if $(RACED),1,0) GORACE=atexit_sleep_ms=10 $(GOTESTSUM) $(RACED) -vet=off -trimpath -buildvcs=false -ldflags='-s -w' -count 1 -p $$(($$(getconf _NPROCESSORS_ONLN) + 1)) -timeout 50m ./docs ./plugins/ssh ./plugins/aws ./cmd/rotunda ./agent/pluginhost ./conformance ./plugins/... ./agent/local $$(go list ./... | grep -v -e '/internal/proof$$' -e '/examples/plugin-http$$')
	@if [ -n "$$ROTUNDA_TEST_ALL" ]; then cd examples/plugin-rabbitmq && go test -count 1 -timeout 20m ./...; \
	else echo "examples/plugin-rabbitmq: left out, it is of the second tier: make test-all"; fi

test-all: export ROTUNDA_TEST_ALL = 1
test-all: servers test

servers:
	@CGO_ENABLED=0 go run ./cmd/internal/servers -get

FOR  ?= 10m
SEED ?= 0
soak: build
	ROTUNDA_BIN=$(CURDIR)/bin go test ./internal/proof -run '^TestSoak$$' -count 1 -v -timeout 0 -soak $(FOR) -seed $(SEED)

FUZZTIME ?= 10s
ONLY     ?=
fuzz:
	@CGO_ENABLED=0 go run ./cmd/internal/fuzz -each $(FUZZTIME) -only '$(ONLY)'

# For CI, a minute in all, not led by coverage: what that would compile takes longer.
fuzz-minute:
	@CGO_ENABLED=0 go run -trimpath -buildvcs=false ./cmd/internal/fuzz -blind -all 1m

lint: check-generated
	go vet ./...
	go vet -tags fault ./...
	cd examples/plugin-rabbitmq && go vet ./...
	$(TOOL) staticcheck ./...
	@out=$$(git ls-files '*.go' | grep -v -E '\.pb\.go$$|\.connect\.go$$|^internal/store/db/' | xargs $(TOOL) gofumpt -l); test -z "$$out" || { echo "gofumpt: run make fmt on:"; echo "$$out"; exit 1; }

fmt:
	git ls-files '*.go' | grep -v -E '\.pb\.go$$|\.connect\.go$$|^internal/store/db/' | xargs $(TOOL) gofumpt -w

# Generated code is committed. The checksum of each generator's inputs and of what it made of
# them is kept beside it, so that proving it current costs nothing; regenerating costs the tools'
# compile time once.
GENERATED  = git ls-files --cached --others --exclude-standard $(1) | LC_ALL=C sort -u | xargs sha256sum | sha256sum | cut -d' ' -f1
PROTO_CODE := 'proto/*.proto' 'proto/buf*' tools.mod '*.pb.go' '*.connect.go'
SQL_CODE   := 'internal/store/migrations/*' 'internal/store/queries/*' internal/store/sqlc.yaml tools.mod 'internal/store/db/*.go'
check-generated:
	@$(call GENERATED,$(PROTO_CODE)) | cmp -s - proto/.generated-from || { echo "generated code is not what its inputs give: run make proto and commit"; exit 1; }
	@$(call GENERATED,$(SQL_CODE)) | cmp -s - internal/store/.generated-from || { echo "generated code is not what its inputs give: run make sql and commit"; exit 1; }

proto:
	cd proto && $(TOOL:tools.mod=../tools.mod) buf lint && $(TOOL:tools.mod=../tools.mod) buf generate && $(TOOL:tools.mod=../tools.mod) buf generate --template buf.gen.plugin.yaml
	@$(call GENERATED,$(PROTO_CODE)) > proto/.generated-from

sql:
	cd internal/store && go tool -modfile=../../tools.mod sqlc generate
	@$(call GENERATED,$(SQL_CODE)) > internal/store/.generated-from

docs:
	go run ./cmd/rotunda docs --out docs/cli.md

bench: bench-rotation bench-plugins bench-scripts bench-accounts bench-agents
bench-rotation: build
	@CGO_ENABLED=0 go run -ldflags '$(LDFLAGS)' ./cmd/internal/bench/rotation -bin $(BIN) $(ARGS)

bench-plugins: build
	@CGO_ENABLED=0 go run -ldflags '$(LDFLAGS)' ./cmd/internal/bench/plugins -bin $(BIN) $(ARGS)

bench-scripts: build
	@CGO_ENABLED=0 go run -ldflags '$(LDFLAGS)' ./cmd/internal/bench/scripts -bin $(BIN) $(ARGS)

bench-accounts: build
	@CGO_ENABLED=0 go run -ldflags '$(LDFLAGS)' ./cmd/internal/bench/accounts -bin $(BIN) $(ARGS)

bench-agents: build
	@CGO_ENABLED=0 go run -ldflags '$(LDFLAGS)' ./cmd/internal/bench/agents -bin $(BIN) $(ARGS)

clean:
	rm -rf bin .report .demo
