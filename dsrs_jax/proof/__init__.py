"""Proofs of finished certificates in ball arithmetic: no JAX, nothing of the search.

python -m dsrs_jax.proof certificates.csv
"""
