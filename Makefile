# Thin: each target is a script that can be run by hand.

.PHONY: help up test down clean lint advisories bench
help: ## say what the targets do
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

up: ## start a local cluster with the operator and the quick start's model, and generate out/quickstart.png
	@tests/quickstart

test: ## run every test but the layers faults and hostile; LAYER="unit e2e" runs those alone: lint unit documentation images hostile apiserver across_crates e2e gpu faults
	@tests/run

down: ## stop what `make up` started; caches stay
	@tests/cluster/cluster down up

clean: ## stop every cluster and delete what was built, caches included
	@tests/clean

lint: ## check format, lints, dependencies and shell scripts
	@tests/lint

advisories: ## check the dependencies against known vulnerabilities; run it daily
	@tests/advisories

bench: ## measure the server on this machine with the model in the folder ZIMAGE_MODEL
	@cargo run --release --locked --bin zimage-server -- bench
