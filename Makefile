# make certify   certificates for a whole real test set, end to end
# make test      lint, types and tests
#
# Both need only python3 (3.11 or newer); the first call makes .venv.

PYTHON ?= python3
WORKERS ?= 2
venv := .venv/bin
# What is never imported need not be compiled: half of the time of an installation.
install := $(venv)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable

.PHONY: certify test

certify: .venv/installed
	$(venv)/dsrs-jax certify --radii 0.2 0.4 0.6 0.8 1.0

test: .venv/installed-test
	$(venv)/ruff check .
	$(venv)/ruff format --check .
	$(venv)/mypy dsrs_jax scripts
	$(venv)/python -m pytest -n $(WORKERS) --dist loadfile

# A stamp is touched last, so an interrupted installation is taken up again.
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo '$(PYTHON) is older than 3.11: name a newer one, make PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(install) .
	@touch $@

.venv/installed-test: .venv/installed
	$(install) '.[test]'
	@touch $@
