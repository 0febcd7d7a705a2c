"""A slice of ``benchmarks.system_calls``: a job that is killed at, or refused, the calls that change its files."""

from __future__ import annotations

import pytest

from benchmarks.system_calls import EIO, ENOSPC, KILL, SCORE, Trials, find_obstacle, list_points


def test_points_are_the_calls_of_one_process_that_change_files_of_the_folder(tmp_path):
    lines = [
        f'7 openat(AT_FDCWD</a>, "{tmp_path}/in", O_RDONLY) = 3</in>',
        f'7 openat(AT_FDCWD</a>, "{tmp_path}/out", O_WRONLY|O_CREAT, 0666) = 4</out>',
        '7 write(1<pipe:[1]>, ""..., 3) = 3',
        f'8 write(4<{tmp_path}/out>, ""..., 3) = 3',
        f'7 write(4<{tmp_path}/out>, ""..., 3) = 3',
        f'7 rename("{tmp_path}/out", "{tmp_path}/new") = 0',
        "7 +++ exited with 0 +++",
    ]
    points = list_points("\n".join(lines), 7, tmp_path)
    assert [(p.call, p.number) for p in points] == [("openat", 2), ("write", 2), ("rename", 1)]


@pytest.mark.long
def test_scores_are_old_or_new_and_resume_after_a_fault_in_a_system_call(tmp_path):
    if obstacle := find_obstacle():
        pytest.skip(obstacle)
    trials = Trials(tmp_path.resolve(), (SCORE,))
    points = trials.trace(SCORE)
    assert len(points) > 100
    last = [
        max((p for p in points if p.call == call), key=lambda p: p.number) for call in ("rename", "fsync", "write")
    ]
    tried = [*((point, KILL) for point in last), (last[0], EIO), (last[1], EIO), (last[2], ENOSPC)]
    assert [trials.strike(SCORE, point, fault) for point, fault in tried] == [""] * len(tried)


@pytest.mark.long
def test_a_full_disk_leaves_what_was_there_and_the_job_goes_on(tmp_path):
    trials = Trials(tmp_path.resolve(), (SCORE,))
    try:
        problems = [trials.fill(SCORE, kib) for kib in (0, 16, 64)]
    except PermissionError as error:
        pytest.skip(f"file systems cannot be mounted here: {error}")
    assert problems == ["", "", ""]
