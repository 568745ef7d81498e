"""Times the same training steps in PyTorch, optimised as well as we can.

    python launch/benchmark_torch.py --workdir=runs/benchmark [--device=cuda] [--quick]
    python -m thermo_jax.main --config=configs/benchmark.py:cpu --workdir=runs/benchmark

The first command appends its rows to the workdir's benchmark.jsonl; the second then prints both in
one table. The steps (torch_steps.py) do the same work as thermo_jax's: they gather a batch from a
table on the device, compute soft labels from label maps, and return the same metrics.

On a GPU the script needs only PyTorch, not thermo_jax. A step computes in bfloat16 with channels
last; it is compiled and replayed as one CUDA graph (forward, backward and fused optimiser). The
U-Net's logits are rounded to bfloat16; thermo_jax's are float32, which is more work. On the CPU a
step is not compiled and computes in float32; thermo_jax.training.memory keeps freed memory.
"""

import argparse
import datetime
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch_steps import Pretraining, Segmentation

HEAT, GRAY = (120, 160), (480, 640)  # label maps have the size of gray images
SIZES = {"pretrain H": HEAT, "pretrain G": GRAY, "segment H/H": HEAT, "segment G/G": GRAY}
CASES = {
    "cpu": "pretrain H:16,segment H/H:16",
    "cuda": "pretrain H:64,segment H/H:64,pretrain H:16,segment H/H:16,pretrain G:16",
}
# Ways to run a step, fastest first: (name, mode of torch.compile, whether to record a CUDA graph).
WAYS = {
    "cpu": [("as written", None, False)],
    "cuda": [
        ("compiled, one CUDA graph", "default", True),
        ("compiled, reduce-overhead", "reduce-overhead", False),
        ("compiled, plain loop", "default", False),
    ],
}


def make_case(name: str, *, device: str, batch: int, quick: bool) -> tuple[nn.Module, float]:
    """Returns a case, with its data on the device, and its GFLOP per image."""
    shrink = 4 if quick else 1
    height, width, *label_shape = (side // shrink for side in (*SIZES[name], *GRAY))
    torch.manual_seed(0)
    with torch.device(device):
        if name.startswith("pretrain"):
            case = Pretraining(3 if name.endswith("H") else 1, batch, height, width)
        else:
            dtype = torch.bfloat16 if device == "cuda" else torch.float32
            case = Segmentation(batch, height, width, label_shape, dtype)
    if device == "cuda":
        case = case.to(memory_format=torch.channels_last)
    return case, case.mflop * height * width / 1e3


def make_step(case: nn.Module, rows, mode: str | None) -> Callable:
    """Returns a function that makes one update and returns the metrics."""
    optimizer = case.optimizer(fused=rows.is_cuda, capturable=rows.is_cuda)
    forward = torch.compile(case, mode=mode, dynamic=False) if mode else case

    def step():
        optimizer.zero_grad(set_to_none=True)
        metrics = forward(rows)
        metrics["loss"].backward()
        optimizer.step()
        return {name: value.detach() for name, value in metrics.items()}

    return step


def as_cuda_graph(step: Callable) -> Callable:
    """Records a step; returns a function that starts all its kernels at once."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # as PyTorch's notes on CUDA graphs advise
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.reset_peak_memory_stats()  # the first step tried cuDNN's algorithms
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        metrics = step()

    def replay():
        graph.replay()
        return metrics

    return replay


def prepare(case: nn.Module, rows, ways: list) -> tuple[Callable, str]:
    """Returns a step, which has run once, and the name of the first of the `ways` that works."""
    for number, (how, mode, record) in enumerate(ways, start=1):
        try:
            step = make_step(case, rows, mode)
            step = as_cuda_graph(step) if record else step
            step()
            return step, how
        except RuntimeError as error:
            if isinstance(error, torch.OutOfMemoryError) or number == len(ways):
                raise
            print(f"{how} failed: {str(error).strip().splitlines()[0][:200]}", flush=True)
    raise ValueError("ways is empty: it must contain a way to run a step")


def measure(name: str, batch: int, *, device: str, quick: bool) -> dict:
    """Returns the row of one case. A time is that of a whole step: the median over rounds."""
    on_gpu = device == "cuda"
    repeats, steps = (7, 20) if on_gpu else (3, 1)
    row = {"case": name, "framework": "torch", "dtype": "bfloat16" if on_gpu else "float32"}
    row |= {"batch_size": batch, "torch": torch.__version__}
    row |= {"date": datetime.date.today().isoformat(), "platform": "gpu" if on_gpu else "cpu"}
    row["device"] = torch.cuda.get_device_name() if on_gpu else "cpu"
    wait = torch.cuda.synchronize if on_gpu else lambda: None
    torch.compiler.reset()
    gc.collect()
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        case, gflop = make_case(name, device=device, batch=batch, quick=quick)
        rows = torch.randperm(2 * batch, device=device)[:batch]
        started = time.perf_counter()
        step, how = prepare(case, rows, WAYS[device])
        wait()
        first = time.perf_counter() - started
        times = []
        for _ in range(repeats + on_gpu):  # the first round on a GPU is not counted
            started = time.perf_counter()
            for _ in range(steps):
                metrics = step()
            wait()
            times.append((time.perf_counter() - started) / steps)
    except torch.OutOfMemoryError as error:
        return row | {"why": str(error).splitlines()[0][:200]}
    times = times[-repeats:]
    median = statistics.median(times)
    print({name: round(float(value), 4) for name, value in metrics.items()}, flush=True)
    return row | {
        "how": how,
        "images_per_s": batch / median,
        "ms_per_step": 1e3 * median,
        "ms_min": 1e3 * min(times),
        "ms_max": 1e3 * max(times),
        "compile_s": first if on_gpu else None,
        "tflops": None if quick else gflop * batch / 1e3 / median,
        "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
    }


def parse_cases(text: str, batch: int | None) -> list[tuple[str, int]]:
    """Parses 'pretrain H:64,segment H/H:64' as (name, images a step); `batch` replaces the numbers.

    Raises:
      ValueError: if a case is unknown or lacks its number of images.
    """
    cases = []
    for item in text.split(","):
        name, _, number = item.strip().partition(":")
        if name not in SIZES:
            raise ValueError(f"--cases: unknown case {name!r}; use {', '.join(SIZES)}")
        number = number if batch is None else str(batch)
        if not number.isdecimal() or int(number) == 0:
            raise ValueError(f"{name}: images a step must be 1 or more, such as '{name}:16'")
        cases.append((name, int(number)))
    return list(dict.fromkeys(cases))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="folder of benchmark.jsonl")
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, choices=CASES)
    parser.add_argument("--cases", help="names and images a step, such as 'pretrain H:64'")
    parser.add_argument("--batch", type=int, help="images a step, for all cases")
    parser.add_argument("--budget", type=float, help="seconds after which no case is started")
    parser.add_argument("--quick", action="store_true", help="tiny images, to try the script")
    args = parser.parse_args(arguments)
    try:
        cases = parse_cases(args.cases or CASES[args.device], 2 if args.quick else args.batch)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    if args.device == "cuda":
        if not torch.cuda.is_available():
            parser.exit(2, "--device=cuda: PyTorch finds no GPU here\n")
        torch.backends.cudnn.benchmark = True
    else:
        from thermo_jax.training.memory import keep_freed_memory

        keep_freed_memory()
    file = Path(args.workdir) / "benchmark.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    for index, (name, batch) in enumerate(cases):
        if args.budget is not None and time.perf_counter() - started > args.budget:
            left = ", ".join(f"{name}:{batch}" for name, batch in cases[index:])
            print(f"{args.budget:g} s are over; not started: {left}")
            break
        row = measure(name, batch, device=args.device, quick=args.quick)
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        speed = "{ms_per_step:.4g} ms/step, {images_per_s:.4g} images/s, {how}"
        print(f"{name}, batch {batch}: {row.get('why') or speed.format(**row)}", flush=True)


if __name__ == "__main__":
    main()
