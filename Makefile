# Everything here is a convenience: each target is a line that can be typed.
BIN ?= .venv/bin/

.DEFAULT_GOAL := help
.PHONY: help install check test lint types generate verify golden bench

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "%-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: ## make .venv with everything that development needs
	python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]'

check: lint types verify test ## all that a change has to pass

test: ## run the tests, in parallel
	$(BIN)pytest

lint: ## style and format
	$(BIN)ruff check .
	$(BIN)ruff format --check .

types: ## mypy and basedpyright, both strict
	$(BIN)mypy
	$(BIN)basedpyright

generate: ## write generated/ and docs/errors.md again
	$(BIN)pikku-gen
	$(BIN)python docs/generate.py

verify: ## regenerate beside what is checked in, and show any difference
	$(BIN)pikku-gen --check
	$(BIN)python docs/generate.py --check
	$(BIN)pytest -q tests/codegen/test_golden.py

golden: ## accept what the generator makes of tests/golden
	$(BIN)pytest -q tests/codegen/test_golden.py --update-golden

bench: ## measure, and print one table
	$(BIN)python -m bench
