# famezd: `make run` and `make test` set up all that they need.

.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help run test lint soak format reference screenshots page-library bench deb rpm clean

help:
	@echo "make run     run famezd here, unprivileged, with the example fabrics; Ctrl-C stops it"
	@echo "make test    run all tests, real QEMU included (installs Debian packages that they need); those with a real"
	@echo "             systemd boot Debian 13, or with FAMEZD_RELEASES='bookworm trixie' Debian 12 as well"
	@echo "make soak HOURS=1 SEED=42  everything at once for so long, against a model: docs/soak.md"
	@echo "make lint    ruff, mypy --strict, shellcheck"
	@echo "make format  format the code"
	@echo "make reference  write anew what is generated: man pages, completions, schemas, dashboards, docs/configuration.md"
	@echo "             and metrics.md"
	@echo "make screenshots  take the pictures of the page anew: docs/images"
	@echo "make page-library  make what the page uses of D3 anew, from npm's packages: see packaging/page/README.md"
	@echo "make bench   measure famezd against QEMU's server and the machine's limits: writes docs/performance.md"
	@echo "make deb     build the package for Debian 12 and 13 in dist/, and install what that needs"
	@echo "make rpm     the same for distributions with RPM"
	@echo "make clean   remove what the others made"

run: $(VENV)/.run
	@mkdir -p run
	@RUNTIME_DIRECTORY=$(CURDIR)/run exec $(BIN)/famezd -c etc/famez/famezd.yaml

# More processes than processors: most of the time tests wait.
test: $(VENV)/.dev
	$(BIN)/python -m tests.ahead
	$(BIN)/pytest -n 4 --dist loadscope --no-loadscope-reorder

HOURS := 1
soak: $(VENV)/.dev
	$(BIN)/python -m tests.soak --hours='$(HOURS)' $(if $(SEED),--seed='$(SEED)')

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m tests.needs shellcheck shellcheck
	shellcheck .ci/run $$(git ls-files '*.sh')

format: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

reference: $(VENV)/.dev
	$(BIN)/python -m docs.reference

screenshots: $(VENV)/.dev
	$(BIN)/python -m tests.screenshots

page-library:
	packaging/page/build.sh

bench: $(VENV)/.dev
	$(BIN)/python -m bench

# Packages are built of what a source distribution has in it.
deb rpm: $(VENV)/.dev
	rm -rf build/sdist
	$(BIN)/python -m build --sdist --outdir build/sdist
	packaging/$@.sh build/sdist/famezd-*.tar.gz build/$@ dist

clean:
	rm -rf $(VENV) run build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Debian's python3 has no venv until python3-venv is installed.
$(VENV)/bin/pip:
	python3 -m venv $(VENV) || { $(AS_ROOT) apt-get update && $(AS_ROOT) apt-get install -y python3-venv && \
		rm -rf $(VENV) && python3 -m venv $(VENV); }

AS_ROOT := $(if $(filter 0,$(shell id -u)),,sudo)

$(VENV)/.run: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install -q -e .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/bin/pip
	$(BIN)/pip install -q -e '.[dev]'
	@touch $@ $(VENV)/.run
