"""Arguments as people type them: paths, text that Hydra cannot parse, and advice in messages that works."""

import subprocess
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.settings.arguments import path_value, quoted, readable, shell_word
from experiments.settings.configuration import composed
from experiments.settings.paths import CONF, path_keys
from experiments.sweeps.settings import read_settings
from tracegrad.errors import ConfigError

AWKWARD = [
    *(
        "ck/epoch=3.ckpt",
        "my run",
        "a#b",
        "water (1).xyz",
        "x,y",
        "[a].xyz",
        "[a]",
        "{a}",
        "a~b",
        "a$b",
        "50%",
    ),
    *(
        "what?*",
        "größe 水",
        "it's",
        'say "a"',
        "1e3",
        "007",
        "true",
        "a;b&c|d!e^f",
        "`ls`",
        "-x",
        "x,",
        "a:b",
        "@a",
    ),
    *("a\\b", "it\\'s", "range(1,3)", "glob(*)"),
]
OF_NABLADFT = ("data.test_path",)  # paths that other data do not have
COMMANDS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "paths")


def shell(line: str) -> list[str]:
    """The arguments of a command line as bash passes them."""
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\0")[:-1]


@pytest.mark.parametrize("value", AWKWARD)
def test_a_path_is_taken_as_it_stands(value: str) -> None:
    words = readable([f"output={value}"], "predict")
    assert readable(words, "predict") == words
    assert composed("predict", words).output == value


def test_paths_of_a_training_are_taken_as_they_stand() -> None:
    config = composed("train", ["run_dir=a=b (1)", "data.path=ü, x#.db", "+init_from=[a] b"])
    assert (config.run_dir, config.data.path, config.init_from) == ("a=b (1)", "ü, x#.db", "[a] b")


@pytest.mark.parametrize("value", AWKWARD)
def test_what_is_printed_for_a_shell_can_be_pasted(value: str) -> None:
    setting = f"title={quoted(value)}"
    plain, word = shell(f"{shell_word(value)} {shell_word(setting)}")
    assert (plain, word) == (value, setting)
    assert composed("draw", [word]).title == value


@pytest.mark.parametrize("value", ["a=b", "größe", "it's 50% (about)", "a#b", "a(1)"])
def test_text_that_hydra_cannot_read_is_taken(value: str) -> None:
    assert composed("pack", [f"description={value}"]).description == value


def test_quotes_of_hydra_and_places_of_other_settings_still_work(tmp_path: Path) -> None:
    assert composed("predict", ["output='a=b'"]).output == "a=b"
    assert composed("predict", ['output="a, b"']).output == "a, b"
    assert composed("predict", ["output=null"]).output is None
    assert composed("predict", ["output=a\\=b"]).output == "a=b"
    assert composed("train", ["run_dir=out/${name}/a=${seed}", "name=x"]).run_dir == "out/x/a=0"
    there = tmp_path / "a\\=b"
    there.mkdir()
    assert composed("predict", [f"structure={there}"]).structure == str(there)


def test_lists_of_paths(tmp_path: Path) -> None:
    assert composed("generate", ["geometries=[a b.xyz, c=1.xyz,ü.xyz]"]).geometries == [
        "a b.xyz",
        "c=1.xyz",
        "ü.xyz",
    ]
    assert composed("generate", ["geometries=a=1,2.xyz"]).geometries == "a=1,2.xyz"
    assert composed("export", ["run=a", "runs=['x=1',y]"]).runs == ["x=1", "y"]
    assert composed("draw", ["source=a", "output=b", "name=[größe*,b]"]).name == ["größe*", "b"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["output", "=", "x y"], 'there are spaces around =; write "output=x y"'),
        (["output=", "x"], "there are spaces around =; write output=x"),
        (["output", "=x"], "there are spaces around =; write output=x"),
        (["--output", "x"], "--output is not an option; settings are written key=value: output=x"),
        (["--edge-chunk=5"], "--edge-chunk is not an option; settings are written key=value: edge_chunk=5"),
        (["output"], "not understood: output; settings are written key=value, such as output=VALUE"),
        (["output="], "output is empty; give output=PATH"),
        (["=x"], "there are spaces around =; write KEY=x"),
        (["device=a,b"], "device=a,b are several values; as one text write \"device='a,b'\""),
        (["device=[a"], "device=[a is not understood: do its brackets and quotes match? As text write "),
        (["device='a"], "device='a is not understood: do its brackets and quotes match? As text write "),
    ],
)
def test_what_is_no_setting_is_answered_with_what_to_type(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        readable(words, "predict")
    assert str(caught.value).startswith(message)
    if "As text write " in str(caught.value):
        (word,) = shell(str(caught.value).split("As text write ")[1])
        assert composed("predict", [word]).device == words[0].removeprefix("device=")


def test_options_of_hydra_are_left_alone() -> None:
    words = ["-h", "--cfg", "job", "~callbacks.timer", "+x=1", "hydra.verbose=true"]
    assert readable(words, "train") == words


def test_a_sweep_keeps_its_own_values_and_hands_on_what_can_be_read(tmp_path: Path) -> None:
    words = [f"runs={tmp_path}/a=b [1] ü", "data.path=x (1)=y.db", "grid.name=a=1,b c", "seeds=[0]"]
    settings = read_settings("sweep", ["experiment=demo", *words])
    assert settings.runs == tmp_path / "a=b [1] ü"
    assert settings.grid == {"name": ["a=1", "b c"]}
    assert composed("train", settings.overrides).data.path == "x (1)=y.db"
    assert read_settings("sweep", ["runs='a b'", "grid.name=x", "seeds=[0]"]).runs == Path("a b")


def test_a_mistake_in_a_grid_names_what_works() -> None:
    with pytest.raises(ConfigError, match="do its brackets and quotes match") as caught:
        read_settings("sweep", ["grid.name=[a,b", "seeds=[0]"])
    (word,) = shell(str(caught.value).split("is written ")[1])
    assert read_settings("sweep", [word, "seeds=[0]"]).grid == {"name": ["a b", "c=d"]}


@pytest.mark.parametrize("command", COMMANDS)
def test_home_means_the_same_for_every_path(
    command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    keys = {key: listed for key, listed in path_keys(command).items() if "*" not in key}
    other = [key for key in keys if key in OF_NABLADFT]
    for group, names in (("deeph", [key for key in keys if key not in other]), ("nabladft", other)):
        words = [f"{key}=[~/a,b]" if keys[key] else f"{key}=~/a b=c" for key in names]
        if command in ("train", "evaluate"):
            words.append(f"data={group}")
        config = composed(command, words if names else [])
        for key in names:
            expected = [f"{tmp_path}/a", "b"] if keys[key] else f"{tmp_path}/a b=c"
            assert OmegaConf.select(config, key) == expected, key


def test_home_in_the_environment_and_in_a_sweep(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("QH9_DIR", "~/data")
    assert composed("train", ["experiment=qs"]).data.path == f"{tmp_path}/data/QH9Stable.db"
    assert composed("fetch", ["fetch=qs"]).databases.qs.path == f"{tmp_path}/data/QH9Stable.db"
    assert read_settings("sweep", ["runs=~/r", "grid.name=x", "seeds=[0]"]).runs == tmp_path / "r"


def test_home_of_nobody_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"output=~no-such-user/x: there is no user 'no-such-user'.*\./~no-such-user/x"
    ):
        composed("predict", ["output=~no-such-user/x"])
    assert composed("predict", ["output=./~no-such-user/x"]).output == "./~no-such-user/x"


def test_a_quoted_path_is_what_its_quotes_hold() -> None:
    assert path_value("runs", "'a b'") == "a b"
    assert path_value("runs", "a=b") == "a=b"
    with pytest.raises(ConfigError, match="runs is empty; give runs=PATH"):
        path_value("runs", " ")
