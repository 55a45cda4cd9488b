# What mini-vmm's developers and users type; `make` alone lists it.
# Everything long-running shows what it is doing.

TARGET := x86_64-unknown-linux-gnu
export CARGO_TERM_PROGRESS_WHEN ?= auto

.DEFAULT_GOAL := help
.PHONY: help deps demo build test test-all check unit fuzz fuzz-briefly lab lab-all bench bench-check bench-readme doc man clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install with apt what is missing for building and for the lab
	@resources/install-deps.sh

demo: deps ## boot a stock kernel with a passed-through NVMe disk, in an emulated machine
	@cargo run --quiet --package lab --bin demo

build: deps ## the static release binary
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --target $(TARGET) --package mini-vmm

test: check unit fuzz-briefly lab ## format, clippy, all cargo tests, a little fuzzing, the lab's scenarios of under a minute

test-all: check unit fuzz-briefly lab-all ## the same with all of the lab's scenarios

check: deps
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

unit: deps
	cargo test --workspace --exclude lab --exclude fuzz

fuzz: deps ## fuzz targets, FUZZ_SECONDS each (600)
	tests/fuzz/run.sh

fuzz-briefly: deps
	FUZZ_SECONDS=10 tests/fuzz/run.sh

lab: deps ## the lab's scenarios: real VFIO and KVM in an emulated machine with an IOMMU
	cargo test --package lab

lab-all: deps
	cargo test --package lab -- --include-ignored

bench: deps ## measure mini-vmm beside its peers (BENCH=1,3 for some parts, PEERS="name=/path ...")
	@cargo run --quiet --package bench --bin bench

bench-check: ## what moved between two results of it, A=old.json B=new.json
	@cargo run --quiet --package bench --bin bench -- check $(A) $(B)

bench-readme: ## the last results' summary, into docs/benchmarks.md
	@cargo run --quiet --package bench --bin bench -- readme

doc: ## the library's documentation: the module map and the four paths
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items --package mini-vmm --package lab

man: ## the manual pages, into target/man
	cargo run --quiet --package mini-vmm --example man -- target/man
	@echo "man target/man/mini-vmm.1"

clean: ## remove what was built; the kernel cache stays
	cargo clean
