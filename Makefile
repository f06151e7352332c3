# Every task of the project. Each target sets up what it needs: a virtual environment per Python version, libuv, the
# extensions. Rerunning is quick: only what changed is done again.
#
#   make help                  the list
#   make test PYTHON=python3.13   the same with another interpreter, in its own environment
#   make test ARGS="-k timer"     arguments for pytest (test, debug, interop) or the program (demo, serve, budget ...)

PYTHON ?= python3
JOBS ?= 2
ARGS ?=
MINUTES ?= 5

PYTHON_VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2] + getattr(sys, "abiflags", ""))' 2>/dev/null)
VENV ?= .venv/$(or $(PYTHON_VERSION),none)

ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
RUN := $(BIN)/python
PIP := $(RUN) -m pip --disable-pip-version-check --quiet
SETUP := $(RUN) setup.py -q build_ext --inplace -j$(JOBS)
PYTEST := $(RUN) -m pytest
# Most tests wait more than they compute. Files stay whole, as some have a server or a certificate of their own.
SIDE_BY_SIDE := -n $(shell expr $(JOBS) + 1) --dist loadfile
# zig compiles for a glibc that is older than this machine's. With others there is only the machine's own.
GLIBC ?= $(if $(shell getconf GNU_LIBC_VERSION 2>/dev/null),2.28)
ZIG = $(CURDIR)/$(RUN) -m ziglang cc -target $(shell uname -m)-linux-gnu.$(GLIBC)
LIBUV := $(if $(filter 1,$(LOOPFAST_SYSTEM_LIBUV)),,vendor/libuv/include/uv.h)
LISTED := import tomllib; p = tomllib.load(open("pyproject.toml", "rb")); print(*(p

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

## help: this list
help:
	@echo 'make TARGET [PYTHON=python3.13] [ARGS="..."]'
	@sed -n 's/^## \([a-z-]*\): /\1|/p' Makefile | awk -F'|' '{ printf "  %-10s %s\n", $$1, $$2 }'

## demo: serve a FastAPI application on loopfast, talk to it, compare with asyncio
demo: build $(VENV)/.extra-demo
	@$(RUN) -m bench.demo $(ARGS)

## serve: the same application left running, for curl and wrk (Ctrl+C ends it)
serve: build $(VENV)/.extra-demo
	@$(RUN) -m bench.demo --serve $(ARGS)

## test: the tests, but for the slow ones of packaging and those of interop
test: build $(VENV)/.extra-test
	$(PYTEST) tests -m "not slow and not interop" $(SIDE_BY_SIDE) $(ARGS)

## test-all: the same with each Python found, the free-threaded one too (LOOPFAST_PYTHONS names more; ARGS="--only 3.12 --list")
test-all:
	@$(PYTHON) tests/every_python.py $(ARGS)

## packaging: the slow tests: every supply route, sdist, wheel, editable install
packaging: build $(VENV)/.extra-test
	$(PYTEST) tests -m slow $(ARGS)

## debug: build with assertions and counters (they stay until the next build), then test
debug: installed $(VENV)/.extra-test
	@LOOPFAST_DEBUG=1 $(SETUP)
	LOOPFAST_DEBUG=1 $(PYTEST) tests -m "not slow and not interop" $(ARGS)

## budget: instructions and system calls per operation beside their targets (needs valgrind and strace)
budget: build $(VENV)/.extra-bench
	@$(RUN) -m bench.budget $(ARGS)

## bench: loopfast, asyncio and uvloop side by side, within half an hour (ARGS="--quick" three minutes, --loops ...)
bench: build $(VENV)/.extra-bench
	@$(RUN) -m bench run $(ARGS)

## parity: CPython's own asyncio tests on loopfast, compared with asyncio's loop
parity: build $(VENV)/.extra-test
	@$(RUN) -m tests.parity $(ARGS)

## interop: real frameworks, databases and drivers on loopfast and on asyncio (uses PostgreSQL, Redis and openssl)
interop: build $(VENV)/.extra-test $(VENV)/.extra-interop
	$(PYTEST) tests/interop -m interop $(ARGS)

## docs: the documentation site, strictly, into build/docs/html; its links checked, every example run
docs: build $(VENV)/.extra-test $(VENV)/.extra-interop $(VENV)/.extra-docs
	$(RUN) -m sphinx -q -W --keep-going -E -d build/docs/trees docs build/docs/html
	$(RUN) docs/check.py build/docs/html
	$(PYTEST) tests/docs -m "interop or not interop" $(ARGS)

## compatibility: run what has changed of the tests on both loops and write docs/compatibility.md (ARGS=--all)
compatibility: build $(VENV)/.extra-test $(VENV)/.extra-interop
	@$(RUN) -m tests.compatibility run $(ARGS)

## engines: Dask distributed and Ray Serve on loopfast (installs some hundred megabytes)
engines: build $(VENV)/.extra-test $(VENV)/.extra-interop $(VENV)/.extra-engines
	$(PYTEST) tests/interop/test_dask.py tests/interop/test_ray.py -m interop $(ARGS)

## torture: each system call and allocation of every scenario fails in turn, then hostile arguments (ARGS="--seconds 600 --seed 1")
torture: build $(VENV)/.extra-test
	@$(RUN) tests/faults/torture.py $(ARGS)

## fuzz: random operations on loopfast and on asyncio, with the same to be seen, for MINUTES=5 (ARGS="--seed 1 --rounds 1")
fuzz: build $(VENV)/.extra-test
	@$(RUN) tests/fuzz --minutes $(MINUTES) $(ARGS)

## asan: the tests on a build with AddressSanitizer and UndefinedBehaviorSanitizer, in build/sanitize (ARGS="-- tests/tcp")
asan: build $(VENV)/.extra-test
	@$(RUN) tests/sanitize $(ARGS)

## tsan: loops in several threads, with ThreadSanitizer on a free-threaded Python (ARGS="--source Python-3.14.N.tar.xz", once)
tsan: build
	@$(RUN) tests/sanitize/tsan.py $(ARGS)

## soak: a server and clients under mixed load, faults and churn for MINUTES=5 (ARGS="--seed 1 --loop asyncio")
soak: build $(VENV)/.extra-test
	@$(RUN) tests/soak --minutes $(MINUTES) $(ARGS)

## wheels: sdist and wheel into dist/, on Linux for glibc from 2.28 on (GLIBC=2.17 for older ones, GLIBC= for this machine's)
wheels: $(LIBUV) $(VENV)/.extra-dev $(if $(GLIBC),$(VENV)/.extra-cross)
	@rm -rf dist build/wheel
	$(if $(GLIBC),CC="$(ZIG)" LDSHARED="$(ZIG) -shared") $(RUN) -m build --outdir build/wheel
	@mkdir -p dist && mv build/wheel/*.tar.gz dist/
	@if [ "$$(uname -s)" = Linux ]; then PATH="$(CURDIR)/$(BIN):$$PATH" $(RUN) -m auditwheel repair --strip --wheel-dir dist build/wheel/*.whl; \
	else mv build/wheel/*.whl dist/; fi
	@ls -l dist

## crosscheck: libuv and the extensions compiled and linked for Windows and macOS with zig (ARGS="--source Python-3.14.N.tar.xz")
crosscheck: build $(VENV)/.extra-cross
	@$(RUN) -m tests.packaging.crosscheck $(ARGS)

## release-check: all that a release needs short of uploading (ARGS="--quick --draft" leaves out the tests and the date)
release-check: build $(VENV)/.extra-dev
	@$(RUN) tests/release_check.py $(ARGS)

## lint: style of Python and Cython sources
lint: $(VENV)/.extra-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint loopfast  # it calls pycodestyle by name

## typecheck: mypy over the package, the build and the tools
typecheck: build $(VENV)/.extra-dev
	$(BIN)/mypy

## clean: remove what was built (not vendor/libuv, not the environments)
clean:
	rm -rf build dist loopfast/_lib *.egg-info
	find loopfast \( -name '*.so' -o -name '*.pyd' -o -name '*.dylib' -o -name '*.dll' \) -delete


.PHONY: help demo serve test test-all packaging debug budget bench parity interop engines torture asan soak wheels crosscheck \
	release-check lint typecheck clean docs compatibility fuzz tsan \
	build installed

# ---- set-up -------------------------------------------------------------------------------------------------------

build: installed
	@$(SETUP)

installed: $(VENV)/.installed

# The package itself, editable. The extensions are built first, in place, so that their progress is visible; the
# installation then finds them up to date.
$(VENV)/.installed: pyproject.toml $(VENV)/.tools $(LIBUV)
	@echo "building loopfast for Python $(PYTHON_VERSION)"
	@$(SETUP)
	@$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

vendor/libuv/include/uv.h: vendor/libuv.toml
	@$(PYTHON) vendor/fetch.py
	@touch $@

$(VENV)/.tools: pyproject.toml | $(VENV)/.created
	@echo "installing the build tools into $(VENV)"
	@$(RUN) -c '$(LISTED)["build-system"]["requires"] + p["project"]["dependencies"]), sep="\n")' > $@.txt
	@$(PIP) install -r $@.txt
	@touch $@

$(VENV)/.extra-%: pyproject.toml | $(VENV)/.tools
	@echo "installing what '$*' needs into $(VENV)"
	@$(RUN) -c '$(LISTED)["project"]["optional-dependencies"]["$*"]), sep="\n")' > $@.txt
	@$(PIP) install -r $@.txt
	@touch $@

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "error: $(PYTHON) is not Python 3.11 or later; name one with PYTHON=python3.NN" >&2; exit 1; }
	@$(PYTHON) -m vendor.build
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv --clear $(VENV) >/dev/null || { rm -rf $(VENV); \
	    echo "error: $(PYTHON) cannot create virtual environments (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }
	@touch $@
