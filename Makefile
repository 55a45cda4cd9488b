# What mini-vmm's developers and users type; `make` alone lists it.
# Everything long-running shows what it is doing.

TARGET := x86_64-unknown-linux-gnu
# The oldest Rust that is promised, and the toolchain of it that rustup has.
MSRV := $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
MSRV_TOOLCHAIN = $(shell rustup toolchain list 2>/dev/null | grep -oE '^$(subst .,\.,$(MSRV))(\.[0-9]+)?-[^ ]+' | head -n 1)
export CARGO_TERM_PROGRESS_WHEN ?= auto

.DEFAULT_GOAL := help
.PHONY: book deps-book deps-build deps-intel deps-fleet fleet deb image deny msrv
.PHONY: lab-apart lab-intel lab-intel-all lab-goldens unit-slow models soak soak-seeded
.PHONY: release release-twice
.PHONY: lab-shell tour tour-lab help deps demo build test test-all check unit fuzz fuzz-long fuzz-briefly fuzz-seeded lab lab-all bench bench-check bench-readme doc man clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install with apt what building, the tests and the lab need and this machine lacks
	@resources/install-deps.sh lab

deps-build: ## the same for building alone
	@resources/install-deps.sh build

deps-intel: deps ## the same for make lab-intel
	@resources/install-deps.sh intel

deps-fleet: deps-build ## the same for make fleet: udev, podman, Slurm, lintian
	@resources/install-deps.sh fleet

deps-book: ## mdBook and what translates the book, from crates.io into the cache
	@resources/install-book.sh

demo: deps ## boot a stock kernel with a passed-through NVMe disk, in an emulated machine (TRACE=1 tells how)
	@TRACE=$(TRACE) cargo run --quiet --package lab --bin demo

build: deps-build ## the static release binaries: mini-vmm, mini-vmm-trace for `mini-vmm trace`, mini-vmm-bench
	RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --target $(TARGET) \
		--package mini-vmm --package mini-vmm-bench

test: deps check unit deny fuzz-briefly lab ## all checks and tests, except lab scenarios of over a minute

test-all: deps check unit models unit-slow deny msrv fuzz-briefly lab-all tour-lab ## all checks and tests, except make lab-apart, lab-intel and fleet

check: deps-build ## formatting, lints and line lengths; needs no QEMU
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	resources/check-columns.sh

unit: deps-build ## all tests except the lab's; needs no QEMU
	cargo test --workspace --exclude lab --exclude fuzz

models: deps-build ## waits of several threads in each order in which they can go on, by loom
	cargo test --package mini-vmm-core --features models --lib models::

unit-slow: deps-build ## the tests that unit leaves out: a guest of 1.1 TiB, for which KVM takes 3 GiB
	cargo test --test guests -- --ignored

tour: deps ## make the chapters of docs/tour anew: outputs, figures and lines of source
	@cargo run --quiet --package tour -- weave

tour-lab: deps ## compare what docs/tour has of the emulated machine, and check the exercises there
	cargo test --package tour --test lab -- --include-ignored

book: deps-book ## docs/tour as web pages in English and Chinese, in target/book
	@cargo run --quiet --package tour -- book

deny: ## licences, duplicates and sources of the dependencies, by cargo-deny
	@if command -v cargo-deny >/dev/null; then \
		cargo deny --locked --workspace check licenses bans sources; \
	else \
		echo "SKIPPED deny: cargo-deny is not installed (cargo install --locked cargo-deny)"; \
	fi

msrv: deps-build ## build with the oldest Rust that is promised, where rustup has that toolchain
	@if [ -n "$(MSRV_TOOLCHAIN)" ]; then \
		cargo "+$(MSRV_TOOLCHAIN)" check --workspace --all-targets --locked --target-dir target/msrv; \
	else \
		echo "SKIPPED msrv: Rust $(MSRV) is not installed (rustup toolchain install $(MSRV))"; \
	fi

fuzz-long: deps-build ## the fuzz targets, FUZZ_SECONDS each (600); prints executions and edges
	tests/fuzz/run.sh

fuzz: fuzz-long

fuzz-briefly: deps-build ## the same, five seconds each
	FUZZ_SECONDS=5 tests/fuzz/run.sh

fuzz-seeded: deps-build ## that each fuzz target finds the bug of its patch in tests/fuzz/seeded
	tests/fuzz/seeded.sh

lab: deps ## lab scenarios of under a minute: real VFIO and KVM in an emulated machine with an IOMMU
	cargo test --package lab

lab-all: deps ## the same as lab and those of over a minute
	cargo test --package lab -- --include-ignored

lab-shell: deps ## a shell in the lab's emulated machine, with devices to pass through and mini-vmm
	@cargo run --quiet --package lab --bin shell

lab-apart: deps ## the longest lab scenarios, such as all devices by all ways
	cargo test --package lab --test lab -- --apart

lab-goldens: deps ## write the golden transcripts of traces in the lab anew
	BLESS=1 cargo test --package lab --test lab a_trace_transcript_of
	BLESS=1 cargo test --package lab --test lab a_trace_transcript_of -- --apart

soak: deps ## guests under load in the lab, SECONDS long (120), drawn from SEED; nothing may be lost
	@cargo run --quiet --package lab --bin soak -- "$(SECONDS)" "$(SEED)"

soak-seeded: deps ## that a soak finds a descriptor, a map and a record that are lost
	integration/soak-seeded.sh

lab-intel: deps-intel ## Linux and tiny guests on Intel's VMX with several CPUs, in Bochs; some minutes
	cargo test --package lab --test intel

lab-intel-all: deps-intel ## the same with all tiny guests
	cargo test --package lab --test intel -- --include-ignored --skip some_tiny_guests_in

deb: deps-build man ## the Debian package, into target/deb
	cargo build --release --package mini-vmm --bins
	resources/package/deb.sh target/release target/man target/deb

image: build ## a container image of the static programs (OCI), into target/image
	resources/package/image.sh target/$(TARGET)/release target/image

release: deps-build ## all files of a release and their checksums, into target/release-files (SIGN=KEY)
	rm -rf target/release-files
	resources/package/release.sh target/release-files

release-twice: deps-build ## two releases from different folders, and whether their bytes are the same
	resources/package/release-twice.sh

fleet: deps-fleet ## udev's rules, containers, Slurm and the Debian package, as root
	cargo test --test fleet

bench: deps ## measure mini-vmm beside its peers (BENCH=1,3 for some parts, PEERS="name=/path ...")
	@cargo run --quiet --package bench --bin bench

bench-check: ## what moved between two results of it, A=old.json B=new.json
	@cargo run --quiet --package bench --bin bench -- check $(A) $(B)

bench-readme: ## the last results' summary, into docs/benchmarks.md
	@cargo run --quiet --package bench --bin bench -- readme

doc: ## the documentation of the crates: their map and the four paths
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items --lib \
		--workspace --exclude fuzz
	@echo "target/doc/mini_vmm/index.html"

man: ## the manual pages, into target/man
	cargo run --quiet --package mini-vmm --example man -- target/man
	@echo "man target/man/mini-vmm.1"

clean: ## remove what was built; the kernel cache stays
	cargo clean
