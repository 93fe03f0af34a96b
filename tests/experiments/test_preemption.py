"""End of a SLURM job while there is nothing to save."""

import os
import signal

import pytest

from experiments.training.preemption import end_on_requeue_signal, requeue


@pytest.fixture
def handler():
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def fake_scontrol(tmp_path, monkeypatch, line: str) -> None:
    program = tmp_path / "scontrol"
    program.write_text(f"#!/bin/sh\n{line}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_the_signal_puts_the_job_into_the_queue_again(tmp_path, monkeypatch, capsys, handler):
    fake_scontrol(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/called')
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    end_on_requeue_signal()
    with pytest.raises(SystemExit) as ended:
        os.kill(os.getpid(), signal.SIGUSR1)
    assert ended.value.code == 0
    assert (
        "stopped by SIGUSR1; the same command resumes the run\njob 7 is queued again"
        in capsys.readouterr().out
    )
    assert (tmp_path / "called").read_text() == "requeue 7\n"


def test_tasks_of_an_array_are_queued_by_themselves(tmp_path, monkeypatch):
    fake_scontrol(tmp_path, monkeypatch, f'echo "$@" > {tmp_path}/called')
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "7")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "3")
    assert requeue()
    assert (tmp_path / "called").read_text() == "requeue 7_3\n"


def test_a_job_that_slurm_does_not_take_is_named(tmp_path, monkeypatch, capsys):
    fake_scontrol(tmp_path, monkeypatch, "echo not allowed >&2; exit 1")
    monkeypatch.delenv("SLURM_ARRAY_JOB_ID", raising=False)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert not requeue()
    assert (
        "job 7 could not be queued again (not allowed); give the same command again"
        in capsys.readouterr().err
    )


def test_outside_slurm_nothing_changes(monkeypatch, handler):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    before = signal.getsignal(signal.SIGUSR1)
    end_on_requeue_signal()
    assert signal.getsignal(signal.SIGUSR1) is before
