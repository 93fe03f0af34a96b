import pytest
from beartype.roar import BeartypeCallHintViolation

from tests.signatures import CHECKS, checked, start_test


def test_the_first_calls_in_a_test_are_checked():
    def takes_an_integer(x: int) -> None:
        pass

    prepared = checked(takes_an_integer)
    for _ in range(2):
        start_test()
        for _ in range(CHECKS):
            with pytest.raises(BeartypeCallHintViolation):
                prepared("one")
        prepared("one")
    start_test()
    prepared(1)
