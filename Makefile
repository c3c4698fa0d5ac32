# make certify     certificates for a whole real test set, end to end
# make test        lint, types and the fast tests
# make test-full   every test
#
# They need only python3 (3.11 or newer) and bring what they need into .venv (docs/testing.md).

PYTHON ?= python3
WORKERS ?= 2
venv := .venv/bin
# What is never imported need not be compiled: half of the time of an installation.
install := $(venv)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable
pytest := $(venv)/python -m pytest -n $(WORKERS) --dist worksteal

.PHONY: certify test test-full

certify: .venv/installed
	$(venv)/dsrs-jax certify --seed 0 --radii 0.2 0.4 0.6 0.8 1.0

test: .venv/installed-test
	$(venv)/ruff check .
	$(venv)/ruff format --check .
	$(venv)/mypy dsrs_jax scripts
	$(pytest)

test-full: .venv/installed-test-full
	$(pytest) --full

# A stamp is touched last, so an interrupted installation is taken up again.
.venv/installed: pyproject.toml | .venv/made
	$(install) .
	@touch $@

.venv/installed-test: pyproject.toml | .venv/made
	$(install) '.[test]'
	@touch .venv/installed $@

.venv/installed-test-full: pyproject.toml | .venv/made
	$(install) '.[test-full]'
	@touch .venv/installed .venv/installed-test $@

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo '$(PYTHON) is older than 3.11: name a newer one, make PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@
