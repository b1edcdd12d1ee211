"""From a name in a recipe to something callable."""

import math
import sys

import pytest

from prunus.errors import InputError, NameNotFound
from prunus.recipes.resolve import call, resolve, split_name


def test_modules_files_and_dotted_attributes(tmp_path):
    (tmp_path / "mine.py").write_text("class A:\n    @staticmethod\n    def make(): return 7\n")
    assert resolve("math:sqrt") is math.sqrt
    assert resolve("mine.py:A.make", [tmp_path])() == 7
    assert resolve(f"{tmp_path}/mine.py:A.make")() == 7
    assert resolve("mine:A.make", [tmp_path])() == 7


def test_a_file_is_loaded_once(tmp_path):
    (tmp_path / "once.py").write_text("def f(): pass\n")
    assert resolve("once.py:f", [tmp_path]) is resolve("once.py:f", [tmp_path])


def test_a_user_s_file_never_hides_an_installed_package(tmp_path):
    (tmp_path / "colorsys.py").write_text("def rgb_to_hsv(): return 'mine'\n")
    sys.modules.pop("colorsys", None)
    assert resolve("colorsys:rgb_to_hsv", [tmp_path])(0, 0, 0) == (0, 0, 0)


def test_a_file_may_import_its_neighbour(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("value = 3\n")
    (tmp_path / "imports.py").write_text("import neighbour_of_mine\ndef f(): return neighbour_of_mine.value\n")
    assert resolve("imports.py:f", [tmp_path])() == 3


@pytest.mark.parametrize("name", ["zoo", "zoo:", ":f", "a:b c", "a:1", "", "a:b-c"])
def test_names_that_are_not_spelt_so(name):
    with pytest.raises(InputError, match=r"is no module:function"):
        split_name(name)


def test_failures_are_told_apart(tmp_path):
    (tmp_path / "needs.py").write_text("import a_module_that_is_absent\n")
    (tmp_path / "raises.py").write_text("x = 1\ny = x / 0\n")
    (tmp_path / "leaves.py").write_text("raise SystemExit(3)\n")
    with pytest.raises(InputError, match=r"importing needs failed: it needs the module a_module_that_is_absent"):
        resolve("needs:f", [tmp_path])
    with pytest.raises(InputError, match=r"loading raises.py failed: ZeroDivisionError: .* \(raises.py:2\)"):
        resolve("raises.py:f", [tmp_path])
    with pytest.raises(InputError, match=r"importing raises failed: ZeroDivisionError"):
        resolve("raises:f", [tmp_path])
    with pytest.raises(InputError, match=r"loading leaves.py failed: SystemExit"):
        resolve("leaves.py:f", [tmp_path])
    with pytest.raises(InputError, match=r"no module named 'absent_package'"):
        resolve("absent_package.sub:f", [tmp_path])
    with pytest.raises(NameNotFound, match=r"no attribute of math named 'sqr'; did you mean sqrt"):
        resolve("math:sqr")
    with pytest.raises(InputError, match=r"math:pi is a float; want a function or a class"):
        resolve("math:pi")


def test_calls_check_their_arguments():
    def build(width, depth=2):
        return width * depth

    assert call(build, "m:build", {"width": 3}) == 6
    with pytest.raises(NameNotFound, match=r"no argument of m:build named 'widht'; did you mean width"):
        call(build, "m:build", {"widht": 3})
    with pytest.raises(InputError, match=r"m:build cannot be called with {}: missing a required argument: 'width'"):
        call(build, "m:build", {})
    with pytest.raises(InputError, match=r"m:build raised TypeError") as caught:
        call(build, "m:build", {"width": None})
    assert isinstance(caught.value.__cause__, TypeError)
