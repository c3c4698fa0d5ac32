"""python -m dsrs_jax.proof: proves finished files of certificates."""

import sys

from dsrs_jax.proof.check import main

if __name__ == "__main__":
    sys.exit(main())
