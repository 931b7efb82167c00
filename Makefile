# All targets set everything up on a fresh machine that has Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: quickstart test lint docs clean

quickstart: .venv/installed
	$(BIN)/flowgrpo train quickstart

test: .venv/installed lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf build/typed && mkdir -p build/typed && cp -r flowgrpo build/typed
	cp -r rewards eval configs assets build/typed/flowgrpo
	cp -r tools build/typed
	cd build/typed && ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache

docs: .venv/documented
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build
	@echo "open build/site/index.html"

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,rewards,serve,fleet]'
	touch $@

.venv/documented: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	touch $@

clean:
	rm -rf .venv build *.egg-info
