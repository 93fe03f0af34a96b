import pytest
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from experiments.settings.cli import clean_errors
from tracegrad.errors import DataError


def test_a_user_error_is_one_line_and_status_1(capsys):
    @clean_errors
    def main():
        raise DataError("row 3 is damaged")

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: row 3 is damaged\n"


def test_an_error_inside_of_instantiate_is_found(capsys):
    @clean_errors
    def main():
        try:
            raise DataError("no such file")
        except DataError as error:
            raise InstantiationException("Error in call to target ...") from error

    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "error: no such file\n"


def test_a_bad_setting_is_named_with_its_key(capsys):
    @clean_errors
    def main():
        OmegaConf.structured({"model": {"width": 3}}).model.depth = OmegaConf.create({"a": "???"}).a

    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == "error: Missing mandatory value: a\n"


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_bug_keeps_its_traceback(wrapped):
    @clean_errors
    def main():
        try:
            raise ZeroDivisionError
        except ZeroDivisionError as error:
            if wrapped:
                raise InstantiationException("Error in call to target ...") from error
            raise

    with pytest.raises(InstantiationException if wrapped else ZeroDivisionError):
        main()


def test_the_full_error_can_be_asked_for(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")

    @clean_errors
    def main():
        raise DataError("row 3 is damaged")

    with pytest.raises(DataError):
        main()


def test_what_a_command_returns_is_kept():
    assert clean_errors(lambda value: value + 1)(2) == 3
