# StreamStage: `make help` lists what there is.
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/streamstage/target
CARGO ?= cargo
RELEASE := $(CARGO_TARGET_DIR)/release

.DEFAULT_GOAL := help
.PHONY: help build demo lint test deny clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## Build the worker, the services, the order generator and the demo
	$(CARGO) build --release --workspace --bins

demo: build ## The whole pipeline on this machine: services, 2,000 orders, marts and tags, and everything removed again
	$(RELEASE)/demo

lint: ## Formatting, clippy and documentation, without a warning
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --workspace --no-deps --quiet

test: lint build ## Everything that is checked: lint, unit, property and snapshot tests, and tests on real services
	$(CARGO) test --release --workspace --no-run --quiet
	e2e/with-services $(CARGO) test --release --workspace --no-fail-fast

deny: ## Licences and advisories of the dependencies (installs cargo-deny)
	$(CARGO) deny --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check

clean: ## Remove what was built
	$(CARGO) clean
