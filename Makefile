# Two commands on a fresh machine: make demo, make test.
PYTHON ?= python3
BIN    := .venv/bin
SOURCES = sde_sgd theory validation tests benchmarks

.PHONY: demo test lint quick wheel-test evidence bench docs clean

demo: .venv/ready          ## the main run: roads to one density, networks, claims, a diagnosis; with a report
	$(BIN)/sde-sgd demo

test: .venv/ready          ## always under five minutes
	$(BIN)/python -m pytest -q -n 2

lint: .venv/ready build/typed
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	cd build/typed && $(CURDIR)/$(BIN)/python -m mypy --config-file $(CURDIR)/pyproject.toml -p sde_sgd

quick: .venv/ready         ## every experiment in its two-minute form; fails where a verdict does
	for name in $$($(BIN)/python -c 'from sde_sgd.experiment import registered; print(*registered())'); do \
	  $(BIN)/sde-sgd run $$name --quick -q --root build/quick || exit 1; done

wheel-test: .venv/ready    ## the wheel alone, in an environment of its own, away from the sources
	rm -rf build/wheel build/lib build/bdist.* && mkdir -p build/wheel
	$(BIN)/python -m pip wheel -q --no-deps -w build/wheel .
	rm -rf build/lib build/bdist.*
	$(PYTHON) -m venv build/wheel/env
	build/wheel/env/bin/python -m pip install -q --upgrade 'pip>=25.1'
	build/wheel/env/bin/python -m pip install -q -c constraints.txt --group dev "$$(ls build/wheel/sde_sgd-*.whl)[networks]"
	cd build/wheel && env/bin/python -P -c "import sde_sgd; assert 'site-packages' in sde_sgd.__file__, sde_sgd.__file__"
	cd build/wheel && env/bin/python -P -m pytest -q -n 2 -c ../../pyproject.toml --rootdir ../.. -p no:cacheprovider ../../tests

evidence: .venv/ready      ## every long measurement; tables in docs/evidence; continues where it stopped
	$(BIN)/sde-sgd demo -q
	$(BIN)/python -m pytest -q -m evidence --evidence=docs/evidence tests

bench: .venv/ready build/peers/ready   ## against peers, on an otherwise idle machine; pages in docs/benchmarks
	for file in benchmarks/[a-z]*.py; do $(BIN)/python $$file || exit 1; done

docs: .venv/docs-ready
	$(BIN)/python -m sphinx -q -W -b html docs docs/_build/html
	@echo docs/_build/html/index.html

.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "sde-sgd needs Python 3.11 or newer, and $(PYTHON) is not: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install -q -c constraints.txt --group dev -e '.[networks]'
	@touch $@

.venv/docs-ready: .venv/ready
	$(BIN)/python -m pip install -q -c constraints.txt --group docs
	@touch $@

build/peers/ready: benchmarks/peers.txt   ## what `make bench` compares with, in an environment of its own
	@mkdir -p build
	$(PYTHON) -m venv build/peers
	build/peers/bin/python -m pip install -q --upgrade 'pip>=25.1'
	build/peers/bin/python -m pip install -q -r benchmarks/peers.txt
	@touch $@

build/typed: .venv/ready   ## the installed shape, in links, for mypy and editors
	rm -rf $@ && mkdir -p $@/sde_sgd
	ln -sfn $(CURDIR)/sde_sgd/* $(CURDIR)/theory $(CURDIR)/validation $@/sde_sgd/
	@touch $@

clean:                     ## everything that was built or computed; sources stay
	rm -rf .venv build dist runs docs/_build docs/claims docs/gallery *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find sde_sgd theory validation tests -name __pycache__ -prune -exec rm -rf {} +
