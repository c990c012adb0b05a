# One page of targets; `make help` lists them.

SHELL         := bash
MODULES       := api e2e libs migrations services
PACKAGES      := $(MODULES:%=./%/...)
BIN           := $(CURDIR)/.bin
RUN_DIR       ?= .run
BASE_PORT     ?= 25600
FUZZTIME      ?= 30s
DURATION      ?= 1h
SEED          ?= 1

# The tools that generate and check; `make tools` builds them into .bin.
OAPI_CODEGEN  := v2.8.2
SQLC          := v1.31.1
GOLANGCI_LINT := v2.15.0

export GOTOOLCHAIN := local

.DEFAULT_GOAL := help

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

.PHONY: build
build: ## build the programs into .bin
	@mkdir -p $(BIN)
	go build -o $(BIN)/ ./services/cmd/...

.PHONY: run
run: build ## start a whole cell here and play vCenter against it (RUN_DIR, BASE_PORT)
	@exec $(BIN)/kmip-dev run --run-dir '$(RUN_DIR)' --base-port '$(BASE_PORT)'

.PHONY: test
test: build ## unit tests with the race detector, tests on PostgreSQL, end-to-end scripts
	@$(BIN)/kmip-dev install-postgresql
	go run ./libs/pgtest/cluster -- go test -race -shuffle=on $$(go list work | grep -v '/e2e/faults$$')
	go test -race -short ./e2e/faults

.PHONY: faults
faults: build ## every fault under load; writes docs/reliability.md
	@$(BIN)/kmip-dev install-postgresql
	go test -v -count=1 -timeout 1h ./e2e/faults -write

.PHONY: faults-random
faults-random: build ## faults and pairs of them in random order, for DURATION (SEED)
	@$(BIN)/kmip-dev install-postgresql
	go test -v -count=1 -timeout 48h ./e2e/faults -random '$(DURATION)' -seed '$(SEED)'

.PHONY: test-race
test-race: ## the unit tests and those on PostgreSQL, three times in another order
	go run ./libs/pgtest/cluster -- go test -race -shuffle=on -count=3 ./libs/... ./services/...

.PHONY: lint
lint: $(BIN)/golangci-lint-$(GOLANGCI_LINT) ## static checks and formatting
	$< run $(PACKAGES)

.PHONY: lint-api
lint-api: ## IBM's OpenAPI linter over the documents in api
	./.ci/lint-api

.PHONY: generate
generate: $(BIN)/oapi-codegen-$(OAPI_CODEGEN) $(BIN)/sqlc-$(SQLC) ## write the generated code again
	PATH="$(BIN)/tools:$$PATH" go generate $(PACKAGES)

.PHONY: verify
verify: ## is the generated code current, are the module files tidy
	./.ci/verify

.PHONY: fuzz
fuzz: ## each fuzz target for FUZZTIME
	./.ci/fuzz $(FUZZTIME)

.PHONY: bench
bench: ## the benchmarks
	go test -run '^$$' -bench . -benchmem ./libs/... ./services/emulator/...

.PHONY: storm
storm: build ## a boot storm of 50 tenants and 5,000 connections, with its figures
	go test ./e2e -run '^TestBootStorm$$' -v -timeout 20m -args -storm

.PHONY: clean
clean: ## remove .bin and the run folder
	@if [ -d '$(RUN_DIR)' ]; then go run ./services/cmd/kmip-dev clean --run-dir '$(RUN_DIR)'; fi
	rm -rf $(BIN)

.PHONY: tools
tools: $(BIN)/golangci-lint-$(GOLANGCI_LINT) $(BIN)/oapi-codegen-$(OAPI_CODEGEN) $(BIN)/sqlc-$(SQLC) ## build the tools into .bin

# install builds one tool outside the workspace under a name with its version.
define install
	@mkdir -p $(BIN)/tools
	GOWORK=off GOBIN=$(BIN)/tools go install $(1)
	@ln -sf tools/$(notdir $(firstword $(subst @, ,$(1)))) $@
endef

$(BIN)/golangci-lint-$(GOLANGCI_LINT):
	$(call install,github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_LINT))

$(BIN)/oapi-codegen-$(OAPI_CODEGEN):
	$(call install,github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@$(OAPI_CODEGEN))

$(BIN)/sqlc-$(SQLC):
	$(call install,github.com/sqlc-dev/sqlc/cmd/sqlc@$(SQLC))
