"""How fast a bundle runs here: latency, throughput, load time, memory, size and power.

Each engine is measured in a process of its own, so that no other's memory or threads count. Inputs
are made up at the contract's rates; the time of a network does not depend on what they say.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ..engines import gpu
from ..engines.base import Arrays, Engine
from ..engines.golden import check
from ..engines.ort import PROVIDERS, OrtEngine
from ..engines.stored import BACKENDS, built, folders
from ..engines.trt import TrtEngine
from ..errors import DmdLiveError, EngineError
from ..features.pack import Rows, pack
from ..features.spec import SPEC
from ..features.text import TextFeatures
from ..store.bundle import Bundle
from ..system.isolated import isolated
from .power import PowerMeter

__all__ = [
    "CASES",
    "JUDGED",
    "Case",
    "Latency",
    "Measured",
    "Target",
    "contract_inputs",
    "measure",
    "targets",
    "utterance",
]

# Speech has about 2.5 words a second, and MELD's sentences 1.19 word pieces a word.
_PIECES_PER_S = 3.0
_SENTENCE = "well i really do not know what you want me to say about that but it is fine "
_N_WARM = 3
_FEWEST_RUNS = 20  # of a model so slow that there is no time for all
_MOST_S = 4.0  # one line of one model
_TOTAL_S = 100.0
_TIMEOUT_S = 300.0  # onnxruntime's TensorRT provider builds its engine when it loads


@dataclass(frozen=True, kw_only=True)
class Case:
    """An utterance with all modalities: word pieces, seconds of sound, seconds of pictures."""

    name: str
    n_pieces: int
    audio_s: float
    vision_s: float


def utterance(seconds: float) -> Case:
    """Speech of that length, with as many word pieces as it usually has."""
    n_pieces = min(SPEC.max_pieces, 2 + round(_PIECES_PER_S * seconds))
    return Case(name=f"{seconds:g} s", n_pieces=n_pieces, audio_s=seconds, vision_s=seconds)


JUDGED = Case(name="10 s, 50 pieces", n_pieces=50, audio_s=10.0, vision_s=10.0)
CASES = (*(utterance(s) for s in (1, 5, 10, 15)), JUDGED)
_BATCH_CASE = utterance(5)


@dataclass(frozen=True, kw_only=True)
class Target:
    """A model to measure. `open` loads it with the libraries that it needs, `inputs` makes a batch
    of a case, `size` tells its bytes on disk; all are called in the process that measures.
    `batches`: sizes to measure the throughput of."""

    engine: str
    precision: str
    open: Callable[[], Engine]
    inputs: Callable[[Case, int], Arrays]
    size: Callable[[], int]
    cases: tuple[Case, ...] = CASES
    batches: tuple[int, ...] = (8, 32)


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Percentiles of the time of one utterance at batch 1."""

    n_runs: int
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What was found of a target.

    `load_s`: until the first answer, libraries, hashes and self-test included; `memory_mb`: the
    most that loading and batch 1 added to the process (not a GPU's own memory), None where the
    system does not tell; `latency` by case; `per_s`: utterances of 5 s a second, by batch size;
    `power_w`: mean of each of the board's rails; `failure`: why there is no more.
    """

    engine: str
    precision: str
    size_mb: float | None = None
    load_s: float | None = None
    memory_mb: float | None = None
    latency: dict[str, Latency] = field(default_factory=dict)
    per_s: dict[int, float] = field(default_factory=dict)
    power_w: dict[str, float] | None = None
    failure: str | None = None

    @property
    def name(self) -> str:
        """As tables call it."""
        return f"{self.engine} {self.precision}".strip()


def targets(folder: Path | None, engine: str = "auto", n_threads: int = 2) -> list[Target]:
    """Engines and precisions of a bundle (None: the built-in one) that may run here.

    `engine`: one of `engines.choose.ENGINES`; auto is all. Raises BundleError, and EngineError when
    the bundle has nothing for it.
    """
    bundle = Bundle.load(folder)
    found = [
        Target(
            engine=name,
            precision=precision,
            open=partial(_open, bundle.folder, name, precision, n_threads),
            inputs=partial(contract_inputs, bundle.tokenizer_json),
            size=partial(_bytes, bundle.folder, name, precision),
        )
        for name in (_here() if engine == "auto" else [engine])
        for precision in _precisions(bundle, name)
    ]
    if not found:
        raise EngineError(f"{bundle.folder}: it has nothing that {engine} could run")
    return found


def _here() -> list[str]:
    """Engines whose libraries and GPU are here."""
    try:
        gpu.capability()
    except EngineError:
        return ["cpu"]
    import onnxruntime

    providers = onnxruntime.get_available_providers()
    return [name for name, provider in PROVIDERS.items() if provider in providers] + [
        backend for backend, module in BACKENDS.items() if find_spec(module)
    ]


def _precisions(bundle: Bundle, engine: str) -> list[str]:
    if engine in BACKENDS:
        return built(bundle, engine)
    # The dynamic int8 is for processors.
    return [p for p in bundle.info["models"] if engine == "cpu" or p != "int8"]


def _bytes(folder: Path, engine: str, precision: str) -> int:
    """Of a bundle with this model and no other."""
    bundle = Bundle.load(folder)
    models = bundle.info["models"].items()
    files = {"bundle.json", *bundle.info["files"]} - {m for p, m in models if p != precision}
    sizes: list[int] = [(folder / file).stat().st_size for file in files]
    engines = [e for place in folders(bundle) for e in place.glob(f"{engine}-{precision}-*.engine")]
    return sum(sizes) + max((e.stat().st_size for e in engines), default=0)


def _open(folder: Path, engine: str, precision: str, n_threads: int) -> Engine:
    opened: Engine
    if engine in BACKENDS:
        bundle = Bundle.load(folder)
        opened = TrtEngine(bundle, engine, precision)
    else:
        bundle = Bundle.load(folder, precision)
        opened = OrtEngine(bundle.model, precision=precision, n_threads=n_threads, provider=engine)
    check(opened, bundle)
    return opened


def contract_inputs(tokenizer_json: Path, case: Case, batch: int) -> Arrays:
    """`batch` times one made-up utterance, as the graph takes it."""
    rng = np.random.default_rng(0)
    ids = TextFeatures(tokenizer_json).ids(_SENTENCE * 9)
    n_audio, n_vision = case.audio_s * SPEC.audio_rate_hz, case.vision_s * SPEC.vision_rate_hz
    rows = Rows(
        text=np.append(ids[: case.n_pieces - 1], ids[-1]),
        audio=rng.normal(-6.0, 2.0, (round(n_audio), SPEC.audio_dim)).astype(np.float32),
        vision=rng.random((round(n_vision), SPEC.vision_dim), np.float32),
    )
    return {name: np.repeat(values, batch, axis=0) for name, values in pack(rows).items()}


def measure(wanted: Sequence[Target], *, n_runs: int = 200) -> list[Measured]:
    """Measure one after the other, with a progress bar on stderr when a person looks on.

    A case has `n_runs` runs, fewer where a model is so slow that all would take too long. A target
    that fails has a `failure`, and costs the others nothing.
    """
    from rich.console import Console
    from rich.progress import Progress

    n_steps = [2 + len(target.cases) + len(target.batches) for target in wanted]
    most_s = min(_MOST_S, _TOTAL_S / max(1, sum(n_steps)))
    console = Console(stderr=True)
    out = []
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        for target, n in zip(wanted, n_steps, strict=True):
            task = bar.add_task(f"{target.engine} {target.precision}", total=n)
            out.append(_measure(target, n_runs, most_s, partial(bar.advance, task)))
            bar.remove_task(task)
    return out


def _measure(target: Target, n_runs: int, most_s: float, advance: Callable[[], None]) -> Measured:
    found = Measured(engine=target.engine, precision=target.precision)
    steps = isolated(
        partial(_steps, target, found, n_runs, most_s), timeout_s=_TIMEOUT_S, quiet=True
    )
    with PowerMeter() as meter:
        try:
            for found in steps:
                if not found.latency:
                    meter.restart()  # loading is over
                advance()
        except DmdLiveError as error:
            found = replace(found, failure=str(error))
        return replace(found, power_w=meter.watts())


def _steps(target: Target, found: Measured, n_runs: int, most_s: float) -> Iterator[Measured]:
    """In the process that measures: what is known after each step."""
    inputs = {case: target.inputs(case, 1) for case in target.cases}
    before_mb = _memory_mb("VmRSS")
    started = time.monotonic()
    engine = target.open()
    engine.infer(inputs[target.cases[0]])
    load_s = time.monotonic() - started
    found = replace(found, precision=engine.precision, load_s=load_s)
    yield found
    for case in target.cases:
        times = _times(engine, inputs[case], n_runs, _FEWEST_RUNS, most_s)
        p50, p95, p99 = (1e3 * float(t) for t in np.percentile(times, (50, 95, 99)))
        latency = Latency(n_runs=len(times), p50_ms=p50, p95_ms=p95, p99_ms=p99)
        found = replace(found, latency={**found.latency, case.name: latency})
        if before_mb is not None:
            found = replace(found, memory_mb=(_memory_mb("VmHWM") or 0.0) - before_mb)
        yield found
    found = replace(found, size_mb=target.size() / 1e6)  # after memory: it may read the bundle
    yield found
    for size in target.batches:
        times = _times(engine, target.inputs(_BATCH_CASE, size), n_runs, 2, most_s)
        found = replace(found, per_s={**found.per_s, size: size / float(np.median(times))})
        yield found


def _times(
    engine: Engine, inputs: Arrays, n_runs: int, n_fewest: int, most_s: float
) -> list[float]:
    """Seconds of each run after those that warm up; at least `n_fewest`, then until `most_s`."""
    times: list[float] = []
    for _ in range(min(_N_WARM, n_fewest)):
        engine.infer(inputs)
    until = time.monotonic() + most_s
    while len(times) < n_runs and (len(times) < n_fewest or time.monotonic() < until):
        started = time.monotonic()
        engine.infer(inputs)
        times.append(time.monotonic() - started)
    return times


def _memory_mb(name: str) -> float | None:
    """`VmRSS`: resident memory of this process now, `VmHWM`: at most; None except on Linux."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return None
    return int(status.partition(f"{name}:")[2].split()[0]) * 1024 / 1e6
