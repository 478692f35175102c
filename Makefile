# Two commands: `make demo` and `make test`. Both get what they need: a virtual environment in .venv,
# espeak-ng from the system's packages, and Asterisk from whatever the lab finds or builds.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SUDO   := $(if $(filter 0,$(shell id -u)),,sudo)
APT    := $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get

.PHONY: demo test lint bench soak clean system-demo system-test

demo: system-demo $(VENV)/.demo
	$(BIN)/python -m telephony.demo

test: system-test lint
	$(BIN)/python -m pytest tests/acceptance -n 4
	$(BIN)/python -m pytest tests --ignore=tests/acceptance -n 4

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: system-test $(VENV)/.peers
	$(BIN)/python -m tests.benchmarks

soak: system-test $(VENV)/.dev
	$(BIN)/python -m pytest -m soak --timeout=7200
	HYPOTHESIS_PROFILE=explore $(BIN)/python -m pytest tests/wire tests/unit --timeout=600

# A package is installed only where its command is missing; without root or sudo the message says which.
define need
	@command -v $(1) >/dev/null 2>&1 || test -n "$(wildcard $(3))" || { \
	  echo "installing $(2)"; \
	  { $(APT) install -y -q --no-install-recommends $(2) || { $(APT) update -q && \
	    $(APT) install -y -q --no-install-recommends $(2); }; } >/dev/null || \
	  { echo "please install $(2) ($(1) is missing), then try again" >&2; exit 1; }; }
endef

system-demo:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; say which with PYTHON=python3.12" >&2; exit 1; }
	$(call need,espeak-ng,espeak-ng)

system-test: system-demo
	$(call need,pg_ctl,postgresql,/usr/lib/postgresql/*/bin/pg_ctl)

$(BIN)/python:
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  version=$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	  $(APT) update -q >/dev/null; $(APT) install -y -q python$$version-venv >/dev/null; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[lab]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	@touch $@ $(VENV)/.demo

$(VENV)/.peers: $(VENV)/.dev
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev,peers]'
	@touch $@

clean:
	rm -rf $(VENV) var build dist
