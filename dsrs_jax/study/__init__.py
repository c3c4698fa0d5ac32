"""The paper's studies: each a table and a picture, made by the library's own calls."""

from dsrs_jax.study.bounds_plane import bounds_plane
from dsrs_jax.study.dimension import dimension
from dsrs_jax.study.draws import draws
from dsrs_jax.study.given import Given, Study, Subject
from dsrs_jax.study.p_distribution import p_distribution
from dsrs_jax.study.result import Result
from dsrs_jax.study.right_by_length import right_by_length
from dsrs_jax.study.second_law import of_sigma, of_threshold
from dsrs_jax.study.smoothing_law import of_eta, of_k
from dsrs_jax.study.speed import speed
from dsrs_jax.study.toy import toy

# A new study: a function from `Given` to a `Result`, and a line here.
STUDIES = {
    "dimension": Study("radius against dimension for the concentrated classifier", dimension),
    "bounds-plane": Study("radius over the plane of P_A and Q_A", bounds_plane),
    "toy": Study("two dimensions: the worst classifier as a region", toy),
    "time": Study("time for a certificate, beside SciPy's", speed),
    "landscape": Study("how often a model is right, by the noise's length", right_by_length),
    "p-distribution": Study("how P_A is spread over images", p_distribution),
    "k": Study("mean radius against k of P", of_k),
    "eta": Study("mean radius against eta of P", of_eta),
    "q-sigma": Study("mean radius against the sigma of Q", of_sigma),
    "threshold": Study("mean radius against where Q is truncated", of_threshold),
    "draws": Study("mean radius against draws and alpha", draws),
}

__all__ = ["STUDIES", "Given", "Result", "Study", "Subject"]
