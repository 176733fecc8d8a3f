"""Run directories: whole files or none, whole lines or none, one writer."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from robustlab.errors import UserError
from robustlab.runs import RunDirectory, default_run_folder

MANIFEST = {"command": "attack", "seed": 3, "notes": {"β": "naïve"}}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunDirectory]:
    """A new run."""
    with RunDirectory.create(tmp_path / "a" / "b", MANIFEST) as made:
        yield made


def names(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(path.name for path in folder.iterdir())


# --- a run from beginning to end


def test_a_whole_run(run: RunDirectory) -> None:
    assert run.manifest == MANIFEST
    assert not run.is_complete
    assert run.summary is None
    assert run.outcomes() == []
    run.append({"id": "2", "status": "failed", "queries": 5})
    run.append({"id": "1", "status": "error"})
    run.write_summary({"errors": 1, "clean_accuracy": {"value": 1.0}})
    run.update_manifest(target={"spec": "x", "fingerprint_after": "f"})
    assert run.write_text("report.html", "<p>ü</p>").read_text(encoding="utf-8") == "<p>ü</p>"
    run.close()

    again = RunDirectory.open(run.path)
    assert again.path == run.path
    assert again.manifest == {**MANIFEST, "target": {"spec": "x", "fingerprint_after": "f"}}
    assert again.manifest == run.manifest
    assert again.outcomes() == [
        {"id": "2", "status": "failed", "queries": 5},
        {"id": "1", "status": "error"},
    ]
    assert again.finished_ids() == frozenset({"1", "2"})
    assert again.summary == {"errors": 1, "clean_accuracy": {"value": 1.0}}
    assert again.is_complete
    assert names(run.path) == ["manifest.json", "outcomes.jsonl", "report.html", "summary.json"]


def test_files_are_sorted_readable_utf8(run: RunDirectory) -> None:
    text = (run.path / "manifest.json").read_text(encoding="utf-8")
    assert text.index('"command"') < text.index('"notes"') < text.index('"seed"')
    assert '"β": "naïve"' in text
    run.append({"id": "é", "text": "line\nbreak \u2028 separator"})
    assert (run.path / "outcomes.jsonl").read_bytes().count(b"\n") == 1
    assert '"é"' in (run.path / "outcomes.jsonl").read_text(encoding="utf-8")
    assert run.outcomes()[0]["text"] == "line\nbreak \u2028 separator"


def test_what_json_does_not_have_is_null(run: RunDirectory) -> None:
    run.append({"id": "1", "similarity": math.nan, "scores": np.array([1.0, np.inf])})
    run.write_summary({"perplexity": -math.inf, "tokens": np.int64(3)})
    assert run.outcomes() == [{"id": "1", "similarity": None, "scores": [1.0, None]}]
    assert run.summary == {"perplexity": None, "tokens": 3}
    for file in ("outcomes.jsonl", "summary.json"):
        assert not re.search("NaN|Infinity", (run.path / file).read_text(encoding="utf-8"))


def test_half_a_surrogate_pair_comes_back(run: RunDirectory) -> None:
    run.append({"id": "1", "perturbed": "a\ud83d β"})
    assert run.outcomes()[0]["perturbed"] == "a\ud83d β"
    (run.path / "outcomes.jsonl").read_text(encoding="utf-8")  # is UTF-8 all the same
    run.write_text("report.html", "a\ud83d")


def test_ordinary_permissions(run: RunDirectory) -> None:
    plain = run.path / "plain"
    plain.touch()
    run.append({"id": "1"})
    for name in ("manifest.json", "outcomes.jsonl"):
        assert (run.path / name).stat().st_mode == plain.stat().st_mode


# --- refusals


def test_a_folder_that_holds_a_run_is_refused(run: RunDirectory) -> None:
    before = (run.path / "manifest.json").read_bytes()
    with pytest.raises(UserError, match=r"already holds a run; .*--out.*--resume"):
        RunDirectory.create(run.path, {"command": "other"})
    assert (run.path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("file", ["outcomes.jsonl", "summary.json"])
def test_the_remains_of_a_run_are_refused(tmp_path: Path, file: str) -> None:
    (tmp_path / file).write_text("{}\n")
    with pytest.raises(UserError, match="already holds a run"):
        RunDirectory.create(tmp_path, MANIFEST)
    assert names(tmp_path) == [file]


def test_a_folder_with_other_things_is_taken(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    RunDirectory.create(tmp_path, MANIFEST).close()
    assert RunDirectory.open(tmp_path).manifest == MANIFEST


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("")
    with pytest.raises(UserError, match="is a file"):
        RunDirectory.create(tmp_path / "x", MANIFEST)
    with pytest.raises(UserError, match="cannot use the run in"):
        RunDirectory.create(tmp_path / "x" / "y", MANIFEST)


def test_a_manifest_that_is_no_json_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object"):
        RunDirectory.create(tmp_path / "r", {"thing": object()})
    with pytest.raises(TypeError, match="the key 3"):
        RunDirectory.create(tmp_path / "r", {"names": {3: "x"}})
    assert names(tmp_path) == []


def test_opening_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere holds no run: there is no manifest\.json"):
        RunDirectory.open(tmp_path / "nowhere")
    for content, complaint in ((b'{"seed": ', "not JSON"), (b"[]", "object"), (b"\xff", "JSON")):
        (tmp_path / "manifest.json").write_bytes(content)
        with pytest.raises(UserError, match=rf"manifest\.json is broken: .*{complaint}"):
            RunDirectory.open(tmp_path)


def test_outcomes_need_an_id_of_their_own(run: RunDirectory) -> None:
    for outcome in ({"status": "failed"}, {"id": 3}):
        with pytest.raises(ValueError, match="needs an id that is a string"):
            run.append(outcome)
    run.append({"id": "1"})
    with pytest.raises(UserError, match="already has an outcome for '1'"):
        run.append({"id": "1"})
    assert run.outcomes() == [{"id": "1"}]


def test_a_complete_run_takes_no_more_outcomes(run: RunDirectory) -> None:
    run.append({"id": "1"})
    run.write_summary({})
    with pytest.raises(UserError, match="is complete"):
        run.append({"id": "2"})


@pytest.mark.parametrize(
    "name",
    ["manifest.json", "outcomes.jsonl", "../x", "", ".", "..", "a/..", "a/b/c", "/a", "a/", "a//b"],
)
def test_text_goes_beside_the_files_of_the_run(run: RunDirectory, name: str) -> None:
    before = names(run.path)
    with pytest.raises(ValueError, match="not the name of a file"):
        run.write_text(name, "text")
    assert names(run.path) == before


def test_a_file_may_stand_in_one_sub_folder(run: RunDirectory) -> None:
    path = run.write_file("figures/curve.png", b"\x89PNG\x00")
    assert path == run.path / "figures" / "curve.png"
    assert path.read_bytes() == b"\x89PNG\x00"
    run.write_file("figures/curve.png", b"again")
    assert names(run.path / "figures") == ["curve.png"]
    assert path.read_bytes() == b"again"


def test_a_sub_folder_that_is_a_file_is_refused_in_a_sentence(run: RunDirectory) -> None:
    run.write_text("figures", "mine")
    with pytest.raises(UserError, match="cannot use the run"):
        run.write_file("figures/curve.png", b"")
    assert (run.path / "figures").read_text(encoding="utf-8") == "mine"


# --- kills


def test_a_cut_at_any_byte_loses_one_outcome_at_most(tmp_path: Path) -> None:
    outcomes = [{"id": str(n), "text": f"né\n{n}"} for n in range(3)]
    with RunDirectory.create(tmp_path, MANIFEST) as run:
        for outcome in outcomes:
            run.append(outcome)
    file = tmp_path / "outcomes.jsonl"
    whole = file.read_bytes()
    for cut in range(len(whole) + 1):
        file.write_bytes(whole[:cut])
        kept = whole[:cut].count(b"\n")
        assert RunDirectory.open(tmp_path).outcomes() == outcomes[:kept]  # reading cuts nothing
        assert file.stat().st_size == cut
        with RunDirectory.open(tmp_path) as run:
            for outcome in outcomes[kept:]:
                run.append(outcome)
        assert file.read_bytes() == whole


def test_a_broken_line_in_the_middle_is_named(run: RunDirectory) -> None:
    run.append({"id": "1"})
    run.close()
    file = run.path / "outcomes.jsonl"
    for line in (b'{"id": "2", "sta\n', b'["2"]\n', b'{"status": "failed"}\n', b"\xff\n", b"\n"):
        content = b'{"id": "1"}\n' + line + b'{"id": "3"}\n'
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"outcomes\.jsonl, line 2: this is not an outcome"):
            run.outcomes()
        with pytest.raises(UserError, match="line 2"):
            run.append({"id": "4"})
        assert file.read_bytes() == content


def test_a_real_kill(tmp_path: Path) -> None:
    code = """
import itertools, sys
from pathlib import Path
from robustlab.runs import RunDirectory
run = RunDirectory.create(Path(sys.argv[1]), {"seed": 1})
for n in itertools.count():
    run.append({"id": str(n), "text": "x" * 3000})
    print(n, flush=True)
"""
    with started(code, tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= 5:
                break
        process.kill()
        process.wait()
    with RunDirectory.open(tmp_path) as run:
        done = [int(outcome["id"]) for outcome in run.outcomes()]
        assert len(done) >= 6
        assert done == list(range(len(done)))
        run.append({"id": "next"})
        assert run.finished_ids() == {str(n) for n in done} | {"next"}


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()])
def test_a_failed_append_leaves_no_half_line(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, failure: BaseException
) -> None:
    run.append({"id": "1"})
    before = (run.path / "outcomes.jsonl").read_bytes()
    write = os.write

    def write_some(descriptor: int, data: bytes) -> int:
        if len(data) < 10:
            raise failure
        return write(descriptor, data[:7])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write_some)
        with pytest.raises((UserError, KeyboardInterrupt)):
            run.append({"id": "2", "text": "long enough for three pieces"})
    assert (run.path / "outcomes.jsonl").read_bytes() == before
    run.append({"id": "2"})
    assert run.finished_ids() == {"1", "2"}


def test_a_line_written_in_pieces_is_whole(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
        run.append({"id": "1", "text": "pieces"})
    assert run.outcomes() == [{"id": "1", "text": "pieces"}]


# --- files appear whole


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    run.write_summary({"version": 1})
    run.write_text("report.html", "old")
    files = {name: (run.path / name).read_bytes() for name in names(run.path)}

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(Path if call == "replace" else os, call, fail)
        for write in (
            lambda: run.write_summary({"version": 2}),
            lambda: run.write_text("report.html", "new"),
            lambda: run.update_manifest(seed=4),
        ):
            with pytest.raises(UserError, match="Input/output error"):
                write()
    assert {name: (run.path / name).read_bytes() for name in names(run.path)} == files
    assert run.manifest == MANIFEST


def test_values_that_are_no_json_leave_the_old_file(run: RunDirectory) -> None:
    run.write_summary({"version": 1})
    with pytest.raises(TypeError, match="cannot hold a object"):
        run.write_summary({"version": object()})
    with pytest.raises(TypeError, match="cannot hold a object"):
        run.update_manifest(target=object())
    assert run.summary == {"version": 1}
    assert run.manifest == MANIFEST
    assert names(run.path) == ["manifest.json", "outcomes.jsonl", "summary.json"]


def test_a_broken_summary_is_named(run: RunDirectory) -> None:
    (run.path / "summary.json").write_text("{")
    with pytest.raises(UserError, match=r"summary\.json is broken"):
        _ = run.summary


# --- one writer


@contextmanager
def started(code: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another Python process, given the folder; ended with the block."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


HOLD = """
import sys
from pathlib import Path
from robustlab.runs import RunDirectory
run = RunDirectory.open(Path(sys.argv[1]))
run.append({"id": "theirs"})
print("held", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_write_the_same_run(run: RunDirectory) -> None:
    run.close()
    with started(HOLD, run.path) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        mine = RunDirectory.open(run.path)
        assert mine.finished_ids() == {"theirs"}  # anyone may read
        for write in (
            mine.lock,
            lambda: mine.append({"id": "mine"}),
            lambda: mine.write_summary({}),
            lambda: mine.update_manifest(seed=1),
        ):
            with pytest.raises(UserError, match="another process is writing to the run in"):
                write()
        mine.write_text("report.html", "a report may be made at any time")

        other.send_signal(signal.SIGKILL)  # it cannot clean up, and the lock is free all the same
        other.wait()
        mine.append({"id": "mine"})
        assert mine.finished_ids() == {"theirs", "mine"}
        mine.close()


def test_a_writer_that_waited_sees_what_the_other_wrote(run: RunDirectory) -> None:
    late = RunDirectory.open(run.path)
    assert late.finished_ids() == frozenset()
    run.append({"id": "1"})
    run.close()
    with pytest.raises(UserError, match="another process may have continued this run"):
        late.append({"id": "1"})
    late.append({"id": "2"})
    late.close()


def test_the_lock_ends_with_the_object(tmp_path: Path) -> None:
    first = RunDirectory.create(tmp_path, MANIFEST)
    second = RunDirectory.open(tmp_path)
    with pytest.raises(UserError, match="another process"):
        second.lock()
    first.close()
    first.close()
    second.lock()
    second.lock()
    del second
    first.append({"id": "1"})  # takes it anew
    first.close()


def test_a_failed_creation_lets_go_of_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(UserError, match="Input/output error"):
            RunDirectory.create(tmp_path / "r", MANIFEST)
    RunDirectory.create(tmp_path / "r", MANIFEST).close()
    assert json.loads((tmp_path / "r" / "manifest.json").read_bytes()) == MANIFEST


# --- names


def test_default_folder_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    seen = set()
    for _ in range(4):
        folder = default_run_folder("attack")
        assert re.fullmatch(r"attack-\d{8}T\d{6}Z(-\d+)?", folder.name)
        assert folder.parent == Path("runs")
        assert not folder.exists()
        RunDirectory.create(folder, MANIFEST).close()
        seen.add(folder)
    assert len(seen) == 4
