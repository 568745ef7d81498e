"""The yardstick: the same training steps in PyTorch, written as well as we can.

    python launch/benchmark_torch.py --workdir=runs/benchmark [--device=cuda] [--quick]
    python -m thermo_jax.main --config=configs/benchmark.py:cpu --workdir=runs/benchmark

It appends its rows to the workdir's benchmark.jsonl; the second command then prints both in one
table. Written from the papers (CUTS encoder, patch sampler on the device, U-Net), it needs
PyTorch and, on a GPU, nothing of this project: bfloat16 autocast and latents, channels last,
`torch.compile`. On the CPU freed memory is kept by thermo_jax's own function, to be alike.
"""

import argparse
import datetime
import json
import statistics
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

ENCODER_MFLOP, UNET_MFLOP = 1.62, 4.1  # a pixel, training
PATCHES, CANDIDATES, REACH, PATCH = 16, 10, 5, 5


class Encoder(nn.Module):
    def __init__(self, channels: int, kernels: int = 16):
        super().__init__()
        layers, width = [], channels
        for block in range(4):
            out = kernels * 2**block
            layers += [nn.Conv2d(width, out, 5, padding=2, padding_mode="replicate")]
            layers += [nn.BatchNorm2d(out), nn.LeakyReLU(0.01, inplace=True)]
            width = out
        self.layers = nn.Sequential(*layers)
        self.reconstruction = nn.Linear(width, PATCH * PATCH * channels)

    def forward(self, images):
        return self.layers(images)


def double_convolution(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    layers = []
    for a, b in ((inputs, hidden), (hidden, outputs)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b)]
        layers += [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    def __init__(self, inputs: int = 128, outputs: int = 8, w: int = 64):
        super().__init__()
        self.start = double_convolution(inputs, w, w)
        sizes = [w, 2 * w, 4 * w, 8 * w, 8 * w]
        pairs = zip(sizes, sizes[1:], strict=False)
        self.down = nn.ModuleList(double_convolution(a, b, b) for a, b in pairs)
        wide = ((16 * w, 4 * w), (8 * w, 2 * w), (4 * w, w), (2 * w, w))
        self.up = nn.ModuleList(double_convolution(a, a // 2, b) for a, b in wide)
        self.end = nn.Conv2d(w, outputs, 1)

    def forward(self, x):
        x = self.start(x)
        skips = []
        for stage in self.down:
            skips.append(x)
            x = stage(F.max_pool2d(x, 2))
        for stage in self.up:
            skip = skips.pop()
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
            rows, columns = (a - b for a, b in zip(skip.shape[2:], x.shape[2:], strict=True))
            x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            x = stage(torch.cat([skip, x], 1))
        return self.end(x)


def patches_at(images, centers):
    """[B,C,H,W], [B,S,2] -> [B,S,C,P,P]: one gather, no loop."""
    offsets = torch.arange(PATCH, device=images.device) - PATCH // 2
    rows = (centers[..., 0, None, None] + offsets[:, None]).expand(-1, -1, PATCH, PATCH)
    columns = (centers[..., 1, None, None] + offsets[None, :]).expand(-1, -1, PATCH, PATCH)
    batch = torch.arange(len(images), device=images.device)[:, None, None, None]
    return images.permute(0, 2, 3, 1)[batch, rows, columns].permute(0, 1, 4, 2, 3)


def similarity(a, b):
    c1, c2 = 0.02**2, 0.06**2
    mean_a, mean_b = a.mean((-2, -1)), b.mean((-2, -1))
    var_a, var_b = a.var((-2, -1)), b.var((-2, -1))
    product = (a - mean_a[..., None, None]) * (b - mean_b[..., None, None])
    covariance = product.sum((-2, -1)) / (PATCH * PATCH - 1)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * (2 * covariance + c2) / (var_a + var_b + c2)).mean(-1)


def sample(images):
    count, _, height, width = images.shape
    margin = PATCH // 2
    high = torch.tensor([height - margin, width - margin], device=images.device)
    span = (high - margin).float()
    draw = torch.rand(count, PATCHES, 2, device=images.device)
    anchors = margin + (draw * span).long()
    low = (anchors - REACH).clamp(min=margin)[:, :, None]
    top = torch.minimum(anchors + REACH + 1, high)[:, :, None]
    draw = torch.rand(count, PATCHES, CANDIDATES, 2, device=images.device)
    candidates = low + (draw * (top - low)).long()
    found = patches_at(images, candidates.flatten(1, 2)).unflatten(1, (PATCHES, CANDIDATES))
    scores = similarity(patches_at(images, anchors)[:, :, None], found)
    scores = scores.masked_fill((candidates == anchors[:, :, None]).all(-1), -torch.inf)
    best, index = scores.max(-1)
    chosen = candidates.gather(2, index[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
    middle = torch.tensor([height - 1, width - 1], device=images.device)
    toward = anchors + torch.where(2 * anchors < middle, 1, -1)
    return anchors, torch.where(best[..., None] > 0.5, chosen, toward)


def pretraining_loss(model, images):
    images = images.float() / 127.5 - 1
    with torch.no_grad():
        anchors_hw, positives_hw = sample(images)
    latents = model(images).permute(0, 2, 3, 1)
    batch = torch.arange(len(images), device=images.device)[:, None]
    anchors = latents[batch, anchors_hw[..., 0], anchors_hw[..., 1]].float()
    positives = latents[batch, positives_hw[..., 0], positives_hw[..., 1]].float()
    a, q = F.normalize(anchors, dim=-1), F.normalize(positives, dim=-1)
    exps = (a @ q.transpose(1, 2) / 0.5).exp()
    same = torch.eye(PATCHES, device=images.device, dtype=torch.bool)
    ratio = exps.masked_fill(~same, 0).sum((1, 2)) / (exps.masked_fill(same, 0).sum((1, 2)) + 1e-7)
    contrastive = -(ratio + 1e-7).log().mean()
    rebuilt = model.reconstruction(anchors).unflatten(-1, (images.shape[1], PATCH, PATCH))
    return 0.01 * contrastive + 0.99 * F.mse_loss(rebuilt, patches_at(images, anchors_hw))


def segmentation_loss(model, latents, targets):
    weights = torch.tensor([1.0, 1, 2, 2, 1, 1, 1, 1], device=latents.device)
    logits = model(latents).float()
    return -(weights[:, None, None] * targets * logits.log_softmax(1)).sum(1).mean()


def make(case: str, device: str, batch: int, height: int, width: int):
    """(function of no arguments that returns the loss, parameters, GFLOP an image)."""
    channels_last = torch.channels_last if device == "cuda" else torch.contiguous_format
    if case.startswith("pretrain"):
        channels = 3 if case.endswith("H") else 1
        images = torch.randint(0, 256, (batch, channels, height, width), device=device)
        images = images.to(torch.uint8)
        model = Encoder(channels).to(device, memory_format=channels_last)
        return model, lambda: pretraining_loss(model, images), ENCODER_MFLOP * height * width / 1e3
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    latents = torch.randn(batch, 128, height, width, device=device, dtype=kind)
    latents = latents.to(memory_format=channels_last)
    targets = torch.rand(batch, 8, height, width, device=device).softmax(1)
    model = UNet().to(device, memory_format=channels_last)
    flops = UNET_MFLOP * height * width / 1e3
    return model, lambda: segmentation_loss(model, latents, targets), flops


def measure(case: str, *, device: str, batch: int, repeats: int, steps: int, quick: bool) -> dict:
    height, width = (120, 160) if case.endswith("H") else (480, 640)
    if quick:
        height, width = height // 4, width // 4
    torch.manual_seed(0)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    model, loss, gflop = make(case, device, batch, height, width)
    pretraining = case.startswith("pretrain")
    options = {"lr": 1e-3, "weight_decay": 1e-4} if pretraining else {"lr": 5e-3}
    kind = torch.optim.AdamW if pretraining else torch.optim.Adam
    optimizer = kind(model.parameters(), **options, fused=device == "cuda")
    if device == "cuda":
        loss = torch.compile(loss, mode="max-autotune-no-cudagraphs")

    def step():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            value = loss()
        value.backward()
        optimizer.step()

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    started = time.perf_counter()
    step()
    wait()
    first = time.perf_counter() - started
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(steps):
            step()
        wait()
        times.append((time.perf_counter() - started) / steps)
    median = statistics.median(times)
    return {
        "case": case,
        "framework": "torch",
        "dtype": "bfloat16" if device == "cuda" else "float32",
        "batch_size": batch,
        "images_per_s": batch / median,
        "ms_per_step": 1e3 * median,
        "ms_min": 1e3 * min(times),
        "ms_max": 1e3 * max(times),
        "compile_s": first if device == "cuda" else None,
        "tflops": None if quick else gflop * batch / 1e3 / median,
        "peak_bytes": torch.cuda.max_memory_allocated() if device == "cuda" else None,
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workdir", required=True, help="folder of benchmark.jsonl")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, help="images a step (heatmaps)")
    parser.add_argument("--quick", action="store_true", help="tiny images, to try the script")
    arguments = parser.parse_args()
    on_gpu = arguments.device == "cuda"
    if not on_gpu:
        from thermo_jax.training.memory import keep_freed_memory

        keep_freed_memory()
    batch = arguments.batch or (64 if on_gpu else 16)
    batch = 2 if arguments.quick else batch
    file = Path(arguments.workdir) / "benchmark.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    for case in ("pretrain H", "segment H/H"):
        row = measure(
            case,
            device=arguments.device,
            batch=batch,
            repeats=7 if on_gpu else 3,
            steps=20 if on_gpu else 1,
            quick=arguments.quick,
        )
        with file.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row) + "\n")
        print(f"{case}: {row['ms_per_step']:.4g} ms/step, {row['images_per_s']:.4g} images/s")


if __name__ == "__main__":
    main()
