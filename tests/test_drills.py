"""The drills' own tools. `make drills` runs the drills; kills of a job are also in test_cli, of a decoder in steps."""

import os
import subprocess

import pyarrow as pa

from jobs.drills import processes, site


def test_differences_are_seen() -> None:
    wanted = pa.table({"id": ["a", "b"], "status": ["ok", "missing"], "bass": pa.array([0.5, None], pa.float32())})
    close = wanted.set_column(2, "bass", pa.array([0.500001, None], pa.float32()))
    assert site.difference(wanted, close) == ""
    assert site.difference(wanted, wanted.set_column(2, "bass", pa.array([0.6, None], pa.float32())))
    assert site.difference(wanted, wanted.set_column(2, "bass", pa.array([0.5, 0.1], pa.float32())))
    assert site.difference(wanted, wanted.set_column(1, "status", pa.array(["ok", "ok"]))) == "status differs"
    assert site.difference(wanted, wanted.slice(1)) == "2 ids wanted, 1 found"
    assert site.difference(wanted, pa.concat_tables([wanted, wanted])) == "2 ids twice"


def test_a_tree_of_processes_is_found() -> None:
    shell = subprocess.Popen(["sh", "-c", "sleep 60 & setsid sleep 61 & wait"], start_new_session=True)
    try:
        while len(found := processes.named(shell.pid, "sleep 6")) < 3:  # the shell's own line names them too
            pass
        assert shell.pid in found
        assert os.getpid() not in processes.descendants(shell.pid)
        assert processes.alive(found) == found
        processes.kill(found)
        while processes.alive(found):
            pass
    finally:
        processes.kill(list(processes.descendants(shell.pid)))
        shell.wait()
