"""Whether this machine, or a cluster, can run the job, found out before the bill starts: findings with remedies."""

import io
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pyarrow as pa

from looptagger.archive import growing, lock, output, tags
from looptagger.archive.columns import joint_schema
from looptagger.archive.opening import open_files
from looptagger.archive.sources import open_sources
from looptagger.archive.storage import Folder
from looptagger.cluster import cores
from looptagger.cluster.tagging_job import TagJob, request
from looptagger.config import Audio, Tag
from looptagger.errors import ClipFailed, UserError, one_line
from looptagger.model import checkpoint

PROBE = "_run/doctor.bin"
PROBE_BYTES = 4 << 20
FORMATS = {"wav": "WAV", "flac": "FLAC", "ogg": "OGG", "mp3": "MP3"}
"""Written and read back by libsndfile; what else there is, FFmpeg reads."""
LOOKED_AT = 5
"""Files of a source that are read."""
ANSWER_S, A_LITTLE = 60.0, 0.01
"""Seconds that a node has to answer, and what is asked of its GPU: one that none is asked of may be hidden."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `said` is what was found, or what to do where it is not `ok`."""

    what: str
    ok: bool
    said: str


def examine(source: str | None, out: str | None, model: str, tag: Tag, address: str | None) -> Iterator[Finding]:
    """Each finding as it is made."""
    yield _checked("decoders", _decoders)
    yield _checked("model", lambda: _model(model, tag))
    on_ray = cores.wants_ray(address, tag.compute.device)
    yield _checked(*("Ray", lambda: _ray(address, tag)) if on_ray else ("workers", lambda: _cores(tag)))
    if source:
        yield _checked("source", lambda: _source(source, tag))
    if out:
        job = TagJob((source,) if source else (), out, model, tag)
        yield _checked("output", lambda: f"{_output(out, tag)}; {_there(job)}")


def _checked(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, look())
    except UserError as error:
        return Finding(what, False, str(error))
    except Exception as error:  # whatever is wrong is what was asked for
        return Finding(what, False, one_line(error))


def _decoders() -> str:
    """Write a tone in common formats and read it again."""
    import av
    import numpy as np
    import soundfile

    from looptagger.audio.decode import decode
    from looptagger.audio.sources import Clock, open_ffmpeg
    from looptagger.config import Chunking, Limits

    tone = 0.5 * np.sin(np.arange(8000) / 5, dtype=np.float32)
    for name, kind in FORMATS.items():
        file = io.BytesIO()
        soundfile.write(file, tone, 16_000, format=kind)
        file.seek(0)
        try:
            decode(file, Audio(), Chunking(), Limits())
            file.seek(0)
            with open_ffmpeg(file, Clock(Limits().max_decode_s)) as source:
                next(source.blocks())
        except Exception as error:
            raise UserError(f"{name} cannot be decoded ({one_line(error)}); reinstall soundfile and av.") from None
    versions = f"libsndfile {soundfile.__libsndfile_version__} and PyAV {av.__version__}"
    return f"{versions} read {', '.join(FORMATS)}"


def _model(name: str, tag: Tag) -> str:
    """Load the checkpoint and time one thread on it."""
    import numpy as np
    import torch

    from looptagger.config import Compute
    from looptagger.model import packed, tiles, winograd
    from looptagger.model.predictor import Predictor

    torch.set_num_threads(1)
    on_cpu = Compute(device="cpu", precision="int8" if tag.compute.precision == "int8" else "auto")
    predictor = Predictor(checkpoint.resolve(name, tag.storage), name, on_cpu)
    chunks = np.zeros((4, predictor.card.audio.chunk_samples), np.int16)
    predictor.chunk_scores(chunks[:1])
    began = time.perf_counter()
    scores, _ = predictor.chunk_scores(chunks)
    if not np.isfinite(scores).all():
        raise UserError(f"{name}: gives scores that are not finite; train or import it again.")
    speed = len(chunks) / (time.perf_counter() - began)
    could = (
        packed.is_there() and on_cpu.precision == "auto" and predictor.card.model.channels >= winograd.LEAST_CHANNELS
    )
    hint = "" if tiles.are_quick() or not could else "; more if Numba could be used: see `python -c 'import numba'`"
    return f"{predictor.model_id}, {speed:.1f} chunks/s on one thread here{hint}"


def _cores(tag: Tag) -> str:
    """This machine's workers: no GPU is here, or none is wanted, and no cluster is named. One is started."""
    list(cores.computed([pa.table({"a": [1]})], _answer, in_order=False))
    return f"{cores.divided(tag.compute)}, without Ray"


def _answer(block: pa.Table) -> Iterator[pa.Table]:
    yield block


def _ray(address: str | None, tag: Tag) -> str:
    """Start or join Ray, divide its CPUs and GPUs as the job would, and ask other machines what they have."""
    import ray

    from looptagger.cluster.plan import plan
    from looptagger.cluster.session import session

    with session(address) as ours:
        have = ray.cluster_resources()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        divided = plan(have.get("CPU", 0), have.get("GPU", 0), tag.compute)
        if not ours:
            _ask(nodes, divided.predictors > 0)
        store = have.get("object_store_memory", 0) / 2**30
        return f"{len(nodes)} node{'' if len(nodes) == 1 else 's'}: {divided}; {store:.1f} GiB for objects"


def _ask(nodes: list[dict[str, Any]], on_gpu: bool) -> None:
    """Have each node that works say what it has. Raises UserError for the first that a job would fail on."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    asked = {}
    for node in nodes:
        gpus = A_LITTLE if on_gpu and node["Resources"].get("GPU") else 0
        if gpus or node["Resources"].get("CPU"):
            there = {"scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)}
            task = ray.remote(_here).options(num_cpus=0, num_gpus=gpus, max_retries=0, **there)
            asked[task.remote(gpus > 0, version("looptagger"))] = node["NodeManagerAddress"]
    answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=ANSWER_S)
    for answer, name in asked.items():
        if answer not in answered:
            raise UserError(f"{name}: no answer in {ANSWER_S:g} s; see whether another job holds its GPU, or mend it.")
        try:
            wrong = ray.get(answer)
        except ray.exceptions.RayError as error:
            wrong = f"{one_line(getattr(error, 'cause', None) or error)}; every node needs looptagger and its packages"
        if wrong:
            raise UserError(f"{name}: {wrong}.")


def _here(on_gpu: bool, wanted: str) -> str:
    """On a node: what it lacks."""
    import torch

    from looptagger.model import predictor  # noqa: F401  # with all that it needs

    if (its := version("looptagger")) != wanted:
        return f"has looptagger {its}, and this machine {wanted}; install the same on both"
    if on_gpu and not torch.cuda.is_available():
        return "Ray offers a GPU there that PyTorch cannot use; mend its driver, or use compute.device=cpu"
    return ""


def _source(source: str, tag: Tag) -> str:
    """List the source's first files and decode some of them."""
    from looptagger.steps.isolated import Helper

    listings = open_sources([source], tag.storage)
    tags.schema(joint_schema(listing.schema for listing in listings))
    rows = next((batch for listing in listings for batch in listing.batches()), None)
    if rows is None or not rows.num_rows:
        raise UserError(f"{source}: no audio files there; check the path, or name a manifest.")
    some = [uri.as_py() for uri in rows.column("uri")[:LOOKED_AT]]
    began = time.perf_counter()
    files = open_files(some, tag.storage, tag.limits)
    seconds = time.perf_counter() - began
    bad = [f"{uri}: {file}" for uri, file in zip(some, files, strict=True) if isinstance(file, ClipFailed)]
    if len(bad) == len(some):
        raise UserError(f"{bad[0]}; none of the first {len(some)} files can be read: check credentials and paths.")
    helper, table = Helper(), pa.table({"id": some, "uri": some})
    decoded = pa.concat_tables(helper.run_step("decoded", table, tag.limits, audio=Audio(), tag=tag))
    helper.close()
    status = decoded.column("status").to_pylist()
    if not {"ok", "silent", "empty"} & {*status}:
        why = f"{some[0]}: {decoded.column('error')[0]}"
        raise UserError(f"{why}; none of the first {len(some)} files can be tagged: check what they are.")
    return f"{status.count('ok')} of the first {len(some)} files decode; opened in {seconds:.2f} s"


def _output(out: str, tag: Tag) -> str:
    """Write a file there, read it again and delete it."""
    output.check_place(out)
    folder = Folder(out, tag.storage)
    who = lock.holder(folder)
    if who:
        raise UserError(f"{out}: {who} is writing there; wait for it, or stop it first.")
    above = Path(folder.at(PROBE)).parents if folder.is_local else ()
    made = [each for each in above if not each.exists()]  # the innermost first
    data = os.urandom(PROBE_BYTES)
    began = time.perf_counter()
    folder.write(PROBE, data)
    wrote = time.perf_counter()
    if folder.read(PROBE) != data:
        raise UserError(f"{out}: what was written there does not come back; choose another output.")
    read = time.perf_counter()
    folder.delete([PROBE])
    for empty in made:
        with suppress(OSError):  # somebody else has put a file there
            empty.rmdir()
    speeds = [PROBE_BYTES / 1e6 / seconds for seconds in (wrote - began, read - wrote)]
    return f"can be written ({speeds[0]:,.0f} MB/s) and read ({speeds[1]:,.0f} MB/s)"


def _there(job: TagJob) -> str:
    """What lies in the output. Raises UserError where no job like this one would go on with it."""
    folder = Folder(job.out, job.tag.storage)
    record = output.load(folder)
    if record is None:
        growing.check(folder, None, growing.Request({}, ()))
        return "nothing is there yet"
    model = checkpoint.resolve(job.model, job.tag.storage)
    had = record.identity
    job = replace(job, update=True, chunks=bool(had.get("chunks")), embeddings=bool(had.get("embedding_size")))
    asked = request(job, model, checkpoint.card(model, job.model))
    growing.check(folder, record, asked)
    is_new = not set(asked.sources) <= set(record.sources)
    return f"{record.rows:,} clips are listed there{'; the source comes in with --update' * is_new}"
