# StreamStage: `make help` lists the targets.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/streamstage/target
CARGO ?= cargo
RELEASE := $(CARGO_TARGET_DIR)/release

.DEFAULT_GOAL := help
.PHONY: help packages build demo services dashboard dashboard-test dashboard-bench lint test crd images e2e kind-demo kind-down bench mutants fuzz deny clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

packages:
	@.ci/build-packages

build: packages ## Build all programs and print where they are
	$(CARGO) build --release --workspace --bins
	@echo 'worker, operator, orders, services and demo are in $(RELEASE); use them with:'
	@echo '  export PATH="$(RELEASE):$$PATH"'

demo: packages ## Run the pipeline on local services: 2,000 orders, marts and tags; 1 minute, and 5 to 10 for the first build
	@[ -x $(RELEASE)/demo ] || echo 'The first build takes 5 to 10 minutes on two cores; after it, the demo takes about a minute.'
	$(CARGO) build --release --package streamstage-worker --package streamstage-e2e --bins
	$(RELEASE)/demo

services: build ## Run Kafka, PostgreSQL and Redis with the topics of examples/local.yaml until Ctrl-C
	$(RELEASE)/services run --example

dashboard: build ## Run the pipeline and Superset on this machine until Ctrl-C
	dashboard/run

dashboard-test: build ## Compare every number of the dashboard, in Chromium, with SQL
	dashboard/test $(CARGO_TARGET_DIR)/guests.png

dashboard-bench: build ## Time the dashboard's queries on a million orders; fails above one second
	e2e/with-services dashboard/bench

lint: packages ## Check words, module cycles, features, formatting, clippy and documentation
	.ci/words
	.ci/cycles crds telemetry kafka operator worker e2e
	.ci/features
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --quiet

test: lint build ## Lint; run unit, property, snapshot and integration tests on real services
	$(CARGO) test --release --workspace --no-run --quiet
	e2e/with-services $(CARGO) test --release --workspace --no-fail-fast -- --show-output

crd: packages ## Write the CRD into the chart, as `operator crd` prints it
	$(CARGO) build --release --package streamstage-operator
	$(RELEASE)/operator crd > chart/files/streamstages.yaml

images: build ## Build the container images of the operator, the worker, the order generator and the services
	e2e/cluster/images

e2e: build ## Run the user stories on a kind cluster with two nodes (as root on Debian, or with KUBECONFIG and STREAMSTAGE_REGISTRY)
	$(CARGO) test --release --workspace --test api_server --test stories --no-run --quiet
	STREAMSTAGE_KUBEBOX=$$(e2e/cluster/offline/kubebox-program) $(CARGO) test --release --workspace --test api_server
	e2e/with-cluster $(CARGO) test --release --workspace --test stories --no-fail-fast -- --test-threads 1 --show-output

kind-demo: build ## Run the pipeline on that cluster with the operator; it stays, and orders continue
	e2e/cluster/demo

kind-down: ## Delete that cluster
	e2e/cluster/down

bench: build ## Measure the pipeline beside its peers, and the operator; ten minutes; BENCH=stages runs one of them
	.ci/bench $(BENCH)

mutants: packages ## Mutate the worker's pure modules and require that its unit tests catch 97 %; an hour on two cores
	.ci/mutants

fuzz: packages ## Fuzz the parsers of messages, headers, reference data and stage files for a minute each
	STREAMSTAGE_FUZZ_SECONDS=60 $(CARGO) test --release --workspace --test fuzz -- --show-output

deny: ## Check licenses, bans, sources and advisories of the dependencies
	.ci/deny

clean: ## Remove build output
	$(CARGO) clean
