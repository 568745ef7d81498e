"""launch/benchmark_torch.py, the comparison with PyTorch: it computes the same steps as we do."""

import copy
import json
import subprocess
import sys
import types
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from thermo_jax.benchmark import tables
from thermo_jax.models import cuts, decoders, losses, patches, resampling
from thermo_jax.training import memory

torch = pytest.importorskip("torch", reason="PyTorch is absent: pip install 'thermo_jax[torch]'")
sys.path.insert(0, str(ROOT / "launch"))
import benchmark_torch  # noqa: E402
import torch_steps  # noqa: E402


def normal(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def channels_first(x):
    """An array [B,H,W,C] as a tensor [B,C,H,W]."""
    return torch.from_numpy(np.array(x)).permute(0, 3, 1, 2)


def channels_last(x):
    """A tensor [B,C,H,W] as an array [B,H,W,C]."""
    return x.detach().permute(0, 2, 3, 1).numpy()


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Makes the steps use their GPU code, which also runs on the CPU."""
    monkeypatch.setattr(torch_steps, "on_cpu", lambda x: False)


@pytest.fixture
def unmeasured(monkeypatch):
    """Replaces `measure`: lists the cases; a fake clock adds one second per case."""
    measured = []

    def measure(name, batch, *, device, quick):
        measured.append((name, batch))
        clock.now += 1
        return {"case": name, "batch_size": batch, "why": "not measured"}

    monkeypatch.setattr(benchmark_torch, "measure", measure)
    clock = types.SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(benchmark_torch, "time", clock)
    monkeypatch.setattr(memory, "keep_freed_memory", lambda: None)
    return measured


def test_a_quick_run_appends_rows_that_our_table_shows(tmp_path):
    script = ROOT / "launch" / "benchmark_torch.py"
    command = [sys.executable, script, "--quick", "--device=cpu", f"--workdir={tmp_path}"]
    subprocess.run(command, check=True, timeout=600)
    rows = [json.loads(line) for line in (tmp_path / "benchmark.jsonl").read_text().splitlines()]
    assert [row["case"] for row in rows] == ["pretrain H", "segment H/H"]
    assert {(row["how"], row["device"]) for row in rows} == {("as written", "cpu")}
    table = tables.text(rows).splitlines()
    assert table[1].startswith("pretrain H") and " torch " in table[1]
    assert table[-1] == "on cpu (cpu)"


def test_repeated_edges_equal_replicate_padding():
    x = torch.from_numpy(normal(0, 2, 3, 4, 6))
    padded = torch.nn.functional.pad(x, (2, 2, 2, 2), mode="replicate")
    assert torch.equal(torch_steps.repeat_edges(x, 2), padded)


@pytest.mark.parametrize("height, width", [(1, 5), (7, 10)])
def test_doubling_and_halving_by_slices_equal_ours(on_a_gpu, height, width):
    x = normal(0, 2, height, width, 3)
    doubled = torch_steps.upsample(channels_first(x))
    expected = resampling.upsample(jnp.asarray(x))
    np.testing.assert_allclose(channels_last(doubled), expected, atol=1e-6)
    if height > 1:
        halved = torch_steps.halve(channels_first(x))
        np.testing.assert_array_equal(channels_last(halved), resampling.max_pool(jnp.asarray(x)))


@pytest.mark.parametrize("gpu", [False, True])
def test_latents_at_positions_equal_those_of_batch_norm_and_indexing(monkeypatch, gpu):
    monkeypatch.setattr(torch_steps, "on_cpu", lambda x: not gpu)
    torch.manual_seed(0)
    ours = torch_steps.encoder(3, kernels=2).double()
    for norm in ours[1::3]:
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    theirs = torch.nn.Sequential(*copy.deepcopy(list(ours)))
    images = torch.randn(2, 3, 5, 6, dtype=torch.float64, requires_grad=True)
    examples, hw = torch.arange(2)[:, None], torch.randint(0, 5, (2, 7, 2))
    hw[:, 1] = hw[:, 0]  # this position is read twice
    positions = (examples, hw[..., 0], hw[..., 1])
    outputs = ours(images, *positions), theirs(images).permute(0, 2, 3, 1)[positions]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-12)
    weights = torch.randn_like(outputs[0])
    gradients = []
    for model, latents in zip((ours, theirs), outputs, strict=True):
        learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
        assert len(learned) == 12
        gradients.append(torch.autograd.grad((latents * weights).sum(), [images, *learned]))
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("gpu", [False, True])
def test_soft_labels_equal_ours(monkeypatch, gpu):
    monkeypatch.setattr(torch_steps, "on_cpu", lambda x: not gpu)
    maps = np.random.default_rng(0).integers(0, 8, (2, 12, 16), np.uint8)
    classes = torch.arange(8, dtype=torch.uint8)[:, None, None]
    ours = decoders.soft_labels(jnp.asarray(maps), height=3, num_classes=8)
    theirs = torch_steps.soft_labels(torch.from_numpy(maps), classes, 3)
    np.testing.assert_array_equal(channels_last(theirs), ours)


def test_similarity_and_contrastive_loss_equal_ours():
    a, b = normal(0, 4, 5, 5, 3), normal(1, 4, 5, 5, 3)
    theirs = torch_steps.similarity(channels_first(a), channels_first(b))
    ours = patches.patch_ssim(jnp.asarray(a), jnp.asarray(b))
    np.testing.assert_allclose(theirs, ours, atol=1e-6)
    a, b = normal(2, 2, 16, 8), normal(3, 2, 16, 8)
    same = torch.eye(16, dtype=torch.bool)
    theirs = torch_steps.contrastive_loss(torch.from_numpy(a), torch.from_numpy(b), same)
    ours = losses.patch_contrastive_loss(jnp.asarray(a), jnp.asarray(b)).mean()
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)


def test_positives_are_the_most_similar_candidates_near_their_anchors():
    torch.manual_seed(0)
    case = torch_steps.Pretraining(3, 2, 12, 16)
    anchors, positives = case.sample(torch.from_numpy(normal(0, 2, 3, 12, 16)))
    for positions in (anchors, positives):
        assert positions.shape == (2, 16, 2)
        assert positions.min() >= 2 and (positions <= torch.tensor([9, 13])).all()
    distance = (anchors - positives).abs().amax(-1)
    assert distance.min() >= 1 and distance.max() <= 5


def test_the_segmentation_step_returns_the_same_metrics_as_ours():
    torch.manual_seed(0)
    case = torch_steps.Segmentation(2, 16, 16, (64, 64), torch.float32)
    rows = torch.tensor([3, 0])
    metrics = case(rows)
    logits = jnp.asarray(channels_last(case.unet(case.latents[rows])))
    maps = jnp.asarray(case.label_maps[rows].numpy())
    targets = decoders.soft_labels(maps, height=16, num_classes=8)
    assert list(metrics) == ["loss", "accuracy"]
    loss = losses.segmentation_loss(logits, targets).mean()
    np.testing.assert_allclose(metrics["loss"].detach(), loss, rtol=1e-5)
    agreeing = (logits.argmax(-1) == targets.argmax(-1)).mean()
    np.testing.assert_allclose(metrics["accuracy"], agreeing, rtol=1e-6)


def test_the_models_have_the_published_sizes():
    with torch.device("meta"):
        unet_, encoder = torch_steps.UNet(), torch_steps.encoder(3)
    theirs = [sum(x.numel() for x in model.parameters()) for model in (unet_, encoder)]
    model = cuts.CutsEncoder(channels=3)
    images = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    init = partial(model.init, jax.random.key(0), train=False)
    params = jax.eval_shape(init, images)["params"]
    assert theirs == [17_335_432, sum(leaf.size for leaf in jax.tree.leaves(params))]


@pytest.mark.parametrize("name", ["pretrain H", "segment H/H"])
def test_a_step_is_compiled_in_one_piece(on_a_gpu, name):
    case, _ = benchmark_torch.make_case(name, device="cpu", batch=2, quick=True)
    traced = torch.compile(case, backend="aot_eager", fullgraph=True)  # raises if the graph breaks
    gradients = []
    for step in (case, traced):
        torch.manual_seed(0)
        case.zero_grad()
        step(torch.tensor([1, 0]))["loss"].backward()
        gradients.append([x.grad for x in case.parameters() if x.requires_grad])
    torch.testing.assert_close(*gradients)


def test_a_step_that_cannot_be_recorded_as_a_graph_runs_in_the_next_way(monkeypatch, capsys):
    def refuse(step):
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(benchmark_torch, "as_cuda_graph", refuse)
    case = torch_steps.Pretraining(1, 2, 12, 16)
    ways = [("one CUDA graph", None, True), ("plain loop", None, False)]
    step, how = benchmark_torch.prepare(case, torch.tensor([0, 3]), ways)
    assert how == "plain loop"
    assert list(step()) == ["loss", "contrastive", "reconstruction"]
    message = "one CUDA graph failed: operation not permitted when stream is capturing\n"
    assert capsys.readouterr().out == message
    with pytest.raises(RuntimeError, match="capturing"):
        benchmark_torch.prepare(case, torch.tensor([0, 3]), ways[:1])


def test_a_step_updates_the_model():
    case = torch_steps.Pretraining(1, 2, 12, 16)
    before = case.reconstruction.weight.detach().clone()
    benchmark_torch.make_step(case, torch.tensor([0, 3]), None)()
    assert not torch.equal(case.reconstruction.weight, before)


@pytest.mark.parametrize(
    "options, expected",
    [
        ([], [("pretrain H", 16), ("segment H/H", 16)]),
        (["--cases=pretrain G:4, segment H/H:8"], [("pretrain G", 4), ("segment H/H", 8)]),
        (["--cases=pretrain H:4,pretrain H:8", "--batch=3"], [("pretrain H", 3)]),
        (["--cases=pretrain H", "--quick"], [("pretrain H", 2)]),
    ],
)
def test_cases_and_batch_choose_what_is_measured(tmp_path, unmeasured, options, expected):
    benchmark_torch.main([f"--workdir={tmp_path}", "--device=cpu", *options])
    assert unmeasured == expected
    rows = [json.loads(line) for line in (tmp_path / "benchmark.jsonl").read_text().splitlines()]
    assert [(row["case"], row["batch_size"]) for row in rows] == expected


def test_no_case_starts_after_the_budget(tmp_path, unmeasured, capsys):
    cases = "--cases=pretrain H:1,pretrain H:2,pretrain H:3,pretrain G:1"
    benchmark_torch.main([f"--workdir={tmp_path}", "--device=cpu", cases, "--budget=1.5"])
    assert unmeasured == [("pretrain H", 1), ("pretrain H", 2)]
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "1.5 s are over; not started: pretrain H:3, pretrain G:1"


@pytest.mark.parametrize(
    "cases, message",
    [
        ("predict H/H:2", "unknown case 'predict H/H'; use pretrain H, pretrain G, segment H/H"),
        ("pretrain H", "images a step must be 1 or more, such as 'pretrain H:16'"),
        ("pretrain H:0", "images a step must be 1 or more"),
    ],
)
def test_an_unknown_case_ends_with_one_clear_line(tmp_path, unmeasured, capsys, cases, message):
    with pytest.raises(SystemExit) as stopped:
        benchmark_torch.main([f"--workdir={tmp_path}", "--device=cpu", f"--cases={cases}"])
    assert stopped.value.code == 2 and not unmeasured
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
