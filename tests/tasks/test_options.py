"""Which task heeds which option: rows from the registry, columns from `OPTIONAL`."""

import pytest

from lrjax import tasks
from lrjax.core import UsageError
from lrjax.tasks import images, models, options

SET = {"remat": True, "scan_layers": True, "label_smoothing": 0.1, "stream": True}


def test_every_option_that_some_tasks_lack_has_a_value_here():
    assert set(SET) == set(options.OPTIONAL)
    for factory in tasks.TASKS.values():
        assert factory.supports <= set(SET)


@pytest.mark.parametrize("name", [*tasks.TASKS, "synthetic/regression-1", "svmlight:x"])
@pytest.mark.parametrize("option", SET)
def test_an_option_that_a_task_lacks_is_refused_before_data_is_read(
    name, option, monkeypatch
):
    made = []
    registered = name in tasks.TASKS
    supports = tasks.TASKS[name].supports if registered else frozenset()
    if registered:
        monkeypatch.setitem(tasks.TASKS, name, tasks.Factory(made.append, supports))
    asked = tasks.TaskOptions(**{option: SET[option]})
    if option in supports:
        with pytest.raises(AttributeError):  # `append` returns None, not a task
            tasks.make_task(name, asked)
        assert made == [asked]
    else:
        with pytest.raises(UsageError, match=f"{option}={SET[option]}: '{name}' has"):
            tasks.make_task(name, asked)
        assert not made


@pytest.mark.parametrize("name", images.RECIPES)
def test_recipes_say_whether_their_model_has_blocks(name):
    recipe = images.RECIPES[name]
    assert recipe.has_blocks == hasattr(getattr(models, recipe.model), "remat")
