from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stream_gmm.execute.tree import Folder, fold, levels, subtrees


@given(st.integers(1, 700), st.integers(2, 16), st.randoms(use_true_random=False))
def test_the_fold_depends_on_the_number_of_items_alone(n, fan_in, random):
    """Strings show the very tree: every order of arrival must build the same one."""
    order = list(range(n))
    random.shuffle(order)
    folder = Folder(n, lambda a, b: f"{a}+{b}", fan_in)
    # A fold of a group joins with '+'; brackets mark where a group was closed.
    bracketed = Folder(n, _join, fan_in)
    for i in order:
        folder.put(i, str(i))
        bracketed.put(i, (str(i),))

    assert folder.result() == "+".join(str(i) for i in range(n))
    in_order = Folder(n, _join, fan_in)
    for i in range(n):
        in_order.put(i, (str(i),))
    assert bracketed.result() == in_order.result()


def _join(a, b):
    return (a, b)


@given(st.integers(1, 5000), st.integers(2, 16))
def test_every_level_covers_the_one_below_once(n, fan_in):
    below = n
    for groups in levels(n, fan_in):
        assert [i for g in groups for i in g] == list(range(below))
        assert all(1 <= len(g) <= fan_in for g in groups)
        below = len(groups)
    assert below == 1


def test_a_folder_keeps_no_more_than_the_open_groups():
    folder = Folder(4096, lambda a, b: a + b)
    most = 0
    for i in range(4096):
        folder.put(i, 1)
        most = max(most, sum(len(w) for w in folder._waiting))

    assert folder.result() == 4096
    assert most <= 8 * 5


def test_fold_goes_from_left_to_right():
    assert fold(lambda a, b: f"({a}{b})", ["a", "b", "c"]) == "((ab)c)"


@pytest.mark.parametrize("n", [1, 7, 64, 65, 513, 700])
@pytest.mark.parametrize("wanted", [1, 5, 64])
def test_subtrees_cover_all_and_keep_the_tree(n, wanted):
    groups = subtrees(n, wanted)
    assert [i for g in groups for i in g] == list(range(n))
    assert len(groups) >= min(n, wanted)

    def nested(a, b):
        return f"({a} {b})"

    def folded(values):
        folder = Folder(len(values), nested)
        for index, value in enumerate(values):
            folder.put(index, value)
        return folder.result()

    assert folded([folded(list(g)) for g in groups]) == folded(list(range(n)))
