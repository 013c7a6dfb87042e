"""The example of the package's docstring runs as it is printed."""

import doctest

import sward.methods


def test_a_rival_is_built_from_its_configuration_and_called_as_the_docstring_shows():
    result = doctest.testmod(sward.methods)
    assert result.attempted >= 10
    assert result.failed == 0
