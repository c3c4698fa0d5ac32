"""The run-time type checker of the tests: a whole number is accepted where a float is."""

from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))
