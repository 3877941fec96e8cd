"""`looptagger doctor`: what it finds where all is well, and what it says where not."""

from pathlib import Path

import pytest
import torch

from looptagger.cli import main
from looptagger.model import tiles
from tests.conftest import LOOPS, S3, write_tones
from tests.model.test_packed import needs_packed


def said(args: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main(["doctor", *args])
    return int(str(ended.value.code)), capsys.readouterr().err


@pytest.mark.usefixtures("ray_here")
def test_all_is_well(tiny_model: str, s3: S3, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in write_tones(tmp_path / "audio", 2):
        s3.fs.pipe_file(f"private/doctor/{path.name}", path.read_bytes())
    s3_flags = ["--endpoint-url", s3.endpoint]
    for source, out in ((str(LOOPS), str(tmp_path / "new" / "deep")), ("s3://private/doctor", "s3://private/out")):
        flags = ["--model", tiny_model, *s3_flags, "--set", "compute.device=cpu"]
        code, text = said([source, "-o", out, *flags], capsys)
        assert code == 0, text
        assert text.count("ok  ") == 5
        assert "The job can run." in text
    assert not (tmp_path / "new").exists()
    (tmp_path / "there").mkdir()
    assert said([str(LOOPS), "-o", str(tmp_path / "there"), *flags], capsys)[0] == 0
    assert list((tmp_path / "there").iterdir()) == []
    assert not s3.fs.exists("private/out/_run/doctor.bin")


@needs_packed
@pytest.mark.usefixtures("without_ray")
def test_a_numba_that_cannot_be_used_is_named_where_it_would_be(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_cpu = ["--set", "compute.device=cpu"]
    assert "Numba" not in said(on_cpu, capsys)[1]
    monkeypatch.setattr(tiles, "numba", None)
    code, text = said(on_cpu, capsys)
    assert code == 0, text
    assert "more if Numba could be used: see `python -c 'import numba'`" in " ".join(text.split())
    assert "Numba" not in said([*on_cpu, "--model", tiny_model], capsys)[1]  # whose maps are too few for it


@pytest.mark.usefixtures("ray_here")
def test_what_lies_in_the_output_is_looked_at(
    tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (clip,) = write_tones(tmp_path / "in", 1)
    out, on_cpu = str(tmp_path / "out"), ["--model", tiny_model, "--set", "compute.device=cpu"]
    main(["tag", str(clip), "-o", out, "--chunks", *on_cpu])
    assert "; 1 clips are listed there\n" in said([str(clip), "-o", out, *on_cpu], capsys)[1]
    code, text = said([str(LOOPS), "-o", out, *on_cpu], capsys)
    assert code == 0
    assert "1 clips are listed there; the source comes in with --update" in text
    for flag, differs in (
        ("compute.precision=int8", "without compute.precision=int8; leave it out,"),
        ("chunking.max_chunks=3", "with chunking.max_chunks 40, now it is 3;"),
    ):
        assert f"was made {differs}" in said([str(clip), "-o", out, *on_cpu, "--set", flag], capsys)[1]
    assert "was made with model" in said([str(clip), "-o", out, "--set", "compute.device=cpu"], capsys)[1]


@pytest.mark.usefixtures("ray_here")
def test_each_thing_that_is_wrong_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list.csv").write_text("uri\n/nowhere/a.wav\n/nowhere/b.wav\n")
    (tmp_path / "file").touch()
    code, text = said(
        [
            str(tmp_path / "list.csv"),
            "-o",
            str(tmp_path / "file"),
            "--model",
            "nope",
            "--set",
            "compute.device=cuda",
            "--set",
            "compute.gpus_per_predictor=1",
        ],
        capsys,
    )
    assert code == 1
    assert "FAIL  model: nope: no such model" in text
    assert torch.cuda.is_available() or "Ray offers a GPU there that PyTorch cannot use" in text
    assert "FAIL  source: /nowhere/a.wav: no such file; none of the first 2 files can be read" in text
    assert "FAIL  output" in text
    assert "The job cannot run yet" in text
    assert "Traceback" not in text
    for name in ("a.wav", "b.mp3"):
        (tmp_path / name).write_bytes(b"no audio at all")
    text = said([str(tmp_path / "?.*"), "--set", "compute.device=cpu"], capsys)[1]
    assert f"FAIL  source: {tmp_path}/a.wav: no decoder could read it" in text
    assert "none of the first 2 files can be tagged: check what they are." in text
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mine.parquet").touch()
    (tmp_path / "list.csv").write_text("uri,Bass\n/nowhere/a.wav,1\n")
    text = said([str(tmp_path / "list.csv"), "-o", str(tmp_path / "mine")], capsys)[1]
    assert "FAIL  source: the manifest column 'Bass' has a name that looptagger uses itself" in text
    assert "FAIL  output" in text
    assert "holds mine.parquet, which is no output of ours" in text
    assert "the output is a folder" in said([str(LOOPS), "-o", str(tmp_path / "out.parquet")], capsys)[1]
