# meshfabric: `make demo` and `make test` install what they need on Debian 12 and run; both want root.

PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
TESTS ?=

KERNEL ?= 6.12
KERNELS = $(if $(filter all,$(KERNEL)),6.1 6.12 newest,$(KERNEL))

.PHONY: help demo test bench bench-reroute test-vm vm-shell bench-vm kernels peers lint install bpf clean

help:
	@echo "make demo [KEEP=1]     raise a lab of four nodes and prove what it does"
	@echo "make test [TESTS=...]  lint, types, and every test"
	@echo "make bench             measure, beside others, into build/bench/"
	@echo "make bench-reroute [RUNS=20]  outages when a segment fails, beside BIRD, FRR and babeld: hours"
	@echo "make test-vm [KERNEL=6.1|6.12|newest|all] [BRIEF=1]  the tests that every kernel must pass, in QEMU"
	@echo "make vm-shell [KERNEL=...]                 a shell on one of them"
	@echo "make bench-vm [KERNEL=...]                 measure on one of them"

demo: install bpf
	$(BIN)/meshfabric lab demo $(if $(KEEP),--keep)

test: install bpf lint
	$(BIN)/python -m $(if $(TESTS),pytest $(TESTS),tests)

bench: install bpf
	$(BIN)/python -m bench

bench-reroute: install bpf peers
	$(BIN)/python -m bench.reroute $(if $(RUNS),--runs $(RUNS))

test-vm: install bpf kernels
	$(if $(BRIEF),,$(BIN)/python -m pytest tests/vm)
	$(BIN)/python -m tests.vm.matrix $(if $(BRIEF),--brief) $(KERNELS)

vm-shell: install bpf kernels
	$(BIN)/python -m tests.vm --kernel $(KERNEL)

bench-vm: install bpf kernels
	$(BIN)/python -m bench.vm --kernel $(KERNEL)

kernels:
	deploy/dev/vm.sh $(KERNELS)

peers:
	deploy/dev/peers.sh

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) -C bpf check

bpf: install
	$(MAKE) -C bpf

install: build/.installed $(VENV)/.installed

build/.installed: deploy/dev/install.sh
	deploy/dev/install.sh
	@mkdir -p build && touch $@

$(VENV)/.installed: pyproject.toml | build/.installed
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

clean:
	rm -rf build $(VENV) *.egg-info
