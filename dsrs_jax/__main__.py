"""python -m dsrs_jax: the command `dsrs-jax`."""

from dsrs_jax.run.main import entry

if __name__ == "__main__":
    entry()
