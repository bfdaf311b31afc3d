# StreamStage: `make help` lists what there is.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/streamstage/target
CARGO ?= cargo
RELEASE := $(CARGO_TARGET_DIR)/release

.DEFAULT_GOAL := help
.PHONY: help build demo dashboard dashboard-test dashboard-bench lint test crd images e2e kind-demo kind-down bench deny clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the worker, the services, the order generator and the demo
	$(CARGO) build --release --workspace --bins

demo: build ## The whole pipeline on this machine: services, 2,000 orders, marts and tags, and everything removed again
	$(RELEASE)/demo

dashboard: build ## The dashboard on this machine: the pipeline, orders that keep coming, and Superset, until Ctrl-C
	dashboard/run

dashboard-test: build ## That dashboard in Chromium, every number compared with SQL, and that it stops cleanly
	dashboard/test $(CARGO_TARGET_DIR)/guests.png

dashboard-bench: build ## What each query of the dashboard takes on a million orders; fails over a second
	e2e/with-services dashboard/bench

lint: ## Formatting, clippy and documentation, without a warning
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	$(CARGO) clippy --release --workspace --test stories -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --quiet

test: lint build ## Lint, unit, property and snapshot tests, and tests on real services: all but dashboard-test and e2e
	$(CARGO) test --release --workspace --no-run --quiet
	e2e/with-services $(CARGO) test --release --workspace --no-fail-fast -- --show-output

crd: ## Write the definition of the resource into the chart, as the operator prints it
	$(CARGO) build --release -p streamstage-operator
	$(RELEASE)/operator crd > chart/files/streamstages.yaml

images: build ## The container images of the operator, the worker, the order generator and the services
	e2e/cluster/images

e2e: build ## The user stories on a kind cluster of two nodes (as root on Debian, or with KUBECONFIG and STREAMSTAGE_REGISTRY)
	$(CARGO) test --release --workspace --test stories --no-run --quiet
	e2e/with-cluster $(CARGO) test --release --workspace --test stories --no-fail-fast -- --test-threads 1 --show-output

kind-demo: build ## The whole pipeline on that cluster: operator, stages, 2,000 orders, marts and tags; everything stays, and orders keep coming
	e2e/cluster/demo

kind-down: ## Remove that cluster
	e2e/cluster/down

bench: ## What 10,000 stages cost the operator, and what a reading of 1,000 lags does
	$(CARGO) run --release -p streamstage-operator --example ten_thousand
	$(CARGO) run --release -p streamstage-operator --example lag_poll

deny: ## Licences and advisories of the dependencies (installs cargo-deny)
	$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check

clean: ## Remove what was built
	$(CARGO) clean
