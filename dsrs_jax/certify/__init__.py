"""From probability bounds to certified radii: the dual, its solver, its verifier."""

from dsrs_jax.certify.budget import Budget
from dsrs_jax.certify.certificates import Certificates, Solver
from dsrs_jax.certify.choice import Candidate, Choice, Mixture, Shell, choose, expected_radii
from dsrs_jax.certify.grid import last_on_grid
from dsrs_jax.certify.search import certify, compile_ahead
from dsrs_jax.certify.stopping import Goal, Stopping
from dsrs_jax.certify.table import CertificateTable, Status, certify_table
from dsrs_jax.certify.verifier import evaluate, worst_case

__all__ = [
    "Budget",
    "Candidate",
    "CertificateTable",
    "Certificates",
    "Choice",
    "Goal",
    "Mixture",
    "Shell",
    "Solver",
    "Status",
    "Stopping",
    "certify",
    "certify_table",
    "choose",
    "compile_ahead",
    "evaluate",
    "expected_radii",
    "last_on_grid",
    "worst_case",
]
