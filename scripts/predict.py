"""dsrs-jax predict, from a checkout."""

from dsrs_jax.run.main import entry

if __name__ == "__main__":
    entry()
