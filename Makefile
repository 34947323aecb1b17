# The five commands of every day (CONTRIBUTING.md). BIN: where an environment of your own has its programs.
BIN ?= .venv/bin
CONSTRAINTS ?= constraints-cpu.txt

.PHONY: setup test check demo docs

setup:
	python3 -m venv .venv && .venv/bin/pip install -q -c $(CONSTRAINTS) -e ".[test]"

test:
	$(BIN)/python -m pytest -n 2

check:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/zizmor --offline -q .github
	$(BIN)/properdocs build --strict
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/*.yml

demo:
	$(BIN)/wiper demo

docs:
	$(BIN)/python -m wiper_cli.purifiers > docs/methods.md
	$(BIN)/python -m wiper_cli.rules > docs/rules.md
	$(BIN)/python -m wiper_cli.reports.schema > docs/report-format.md
	$(BIN)/wiper bench all -o docs/results --render-only
	$(BIN)/python -m benchmarks.findings
	$(BIN)/python -m benchmarks.acceptance_pages
	$(BIN)/python -m benchmarks.detection
