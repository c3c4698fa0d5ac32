# make certify   certificates for a whole real test set, end to end
# make test      lint, types and tests
#
# Both need only python3 (3.11 or newer); the first call makes .venv.

PYTHON ?= python3
venv := .venv/bin

.PHONY: certify test

certify: .venv/installed
	$(venv)/python scripts/certify.py

test: .venv/installed-test
	$(venv)/ruff check .
	$(venv)/ruff format --check .
	$(venv)/mypy dsrs_jax scripts
	$(venv)/python -m pytest

# A stamp is touched last, so an interrupted installation is taken up again.
.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo '$(PYTHON) is older than 3.11: name a newer one, make PYTHON=python3.12' >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(venv)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/installed-test: .venv/installed
	$(venv)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@
