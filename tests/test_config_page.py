"""`--mode=config`: rows of the tests come from the fields themselves."""

import re

import pytest
from program import invoke

from configs import quickstart
from lrjax import config, config_page
from lrjax.common import fields
from lrjax.core import UsageError
from lrjax.methods import METHODS

DEFAULTS = dict(fields.leaves(config.base()))


def single_fields(declared, prefix=""):
    """Name with dots and declaration of all fields but those of hyperparameters."""
    for name, found in declared.items():
        if isinstance(found, fields.Block):
            inner = fields.declared(found.declaration)
            yield from single_fields(inner, f"{prefix}{name}.")
        elif not callable(found.default):
            yield f"{prefix}{name}", found


SINGLE = dict(single_fields(config.schema()))


@pytest.fixture(scope="module")
def page():
    answer = invoke("--mode=config")
    assert (answer.code, answer.err) == (0, [])
    return answer.out


def test_every_field_has_one_row_that_begins_with_name_and_default(page):
    firsts = [line.split() for line in page if line.strip()]
    rows = {}
    for name, *rest in firsts:
        if name in DEFAULTS:
            assert name not in rows
            rows[name] = rest[0]
    assert rows == {name: repr(value) for name, value in DEFAULTS.items()}


@pytest.mark.parametrize("name", SINGLE)
def test_the_meaning_stands_beside_the_field(name, page):
    text = " ".join(" ".join(page).split())
    found = SINGLE[name]
    assert found.help.endswith(".")
    assert f" {name} {found.default!r} {found.help} " in f"{text} "


def test_hyperparameters_have_what_their_method_has(page):
    text = " ".join(" ".join(page).split())
    for method in METHODS.values():
        for name, value in method.defaults.items():
            assert (
                f"hparams.{method.name}.{name} None Method's default: {value!r}."
                in text
            )


def test_a_config_shows_its_values_and_what_they_replace():
    wide = "svmlight:/a/folder/with/a/very/long/name/" + "x" * 99
    answer = invoke(
        "--mode=config",
        f"--config={quickstart.__file__}",
        "--config.epochs=7",
        "--config.grid.learning_rate=0.1,1.0",
        "--config.hparams.adam.b1=0.5",
        f"--config.tasks=('digits/logistic', '{wide}')",
    )
    assert answer.code == 0, answer.err
    assert max(map(len, answer.out)) <= 88
    text = " ".join(" ".join(answer.out).split())
    assert f"epochs 7 {SINGLE['epochs'].help} Default: None." in text
    assert "grid.learning_rate (0.1, 1.0) Default: ()." in text
    assert "hparams.adam.b1 0.5 Method's default: 0.9. Default: None." in text
    assert f"seeds {quickstart.get_config().seeds!r} " in text
    joined = re.sub(r"\s", "", text)
    assert f"tasks('digits/logistic','{wide}')" in joined


@pytest.mark.parametrize("words", [["--mode=config"], ["--mode", "config"]])
def test_flags_change_it_without_a_config_file(words):
    answer = invoke(*words, "--config.steps=5")
    assert answer.code == 0, answer.err
    assert any(line.startswith("steps ") and " 5 " in line for line in answer.out)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--config.epoch=1", "unknown config field 'epoch'; did you mean 'epochs'?"),
        ("--config.epochs=two", "config.epochs='two': must be a whole number"),
        ("--config=absent.py", "file 'absent.py' does not exist"),
    ],
)
def test_what_is_wrong_is_said_as_in_other_modes(flag, said):
    answer = invoke("--mode=config", flag)
    assert answer.code == 2
    assert said in answer.err[-1]


def test_a_config_with_other_fields_is_refused():
    other = config.base()
    other.unlock()
    other.own = 1
    with pytest.raises(UsageError, match="unknown config field 'own'"):
        config_page.show(other)


def test_lines_are_not_too_long(page):
    assert max(map(len, page)) <= 88


def test_docstrings_list_the_fields():
    for declaration in (config.Settings, config.Tune, config.Report):
        for name, found in fields.declared(declaration).items():
            assert f"  {name}: {found.help.split()[0]}" in declaration.__doc__


def test_defaults_pass_their_own_checks():
    for name, found in SINGLE.items():
        if name not in ("tasks", "methods"):
            found.check(name, found.default)
