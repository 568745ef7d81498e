"""The training steps that benchmark_torch.py times, in PyTorch: models, patch sampler, losses.

Written from the papers (CUTS encoder, patch sampler on the device, U-Net). A case is a module: its
tables of examples and its constants are buffers, so that a step creates no constant and copies
nothing to the device. It returns the same metrics as thermo_jax's steps.

On a GPU, the code uses slices to repeat the edges, and to halve and double the U-Net's arrays.
Inductor can fuse slices, and their gradients, into the passes around them. The gradients of
PyTorch's own functions are scatters with atomic additions, as the graphs traced by PyTorch 2.13
show; the two have not been compared on a GPU. On the CPU, where nothing is compiled, the code uses
PyTorch's own pooling, up-sampling and batch statistics. It repeats the edges by slices there, too:
a pretraining step of 16 heatmaps took 2.84 s with slices and 2.81 s with padding_mode="replicate".
"""

import torch
import torch.nn.functional as F
from torch import nn

PATCHES, CANDIDATES, REACH, PATCH = 16, 10, 5, 5


def on_cpu(x) -> bool:
    """Returns whether to use PyTorch's own functions (see the module's docstring)."""
    return x.device.type == "cpu"


def repeat_edges(x, margin: int):
    """Repeats the outermost rows and columns of [B,C,H,W] `margin` times."""
    x = torch.cat([x[:, :, :1]] * margin + [x] + [x[:, :, -1:]] * margin, 2)
    return torch.cat([x[..., :1]] * margin + [x] + [x[..., -1:]] * margin, 3)


def upsample(x):
    """Doubles height and width of [B,C,H,W]: bilinear, corners aligned."""
    if on_cpu(x):
        return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    return double(double(x, 2), 3)


def double(x, dim: int):
    """Doubles one dimension: outputs 2k and 2k+1 lie between input k and its two neighbours."""
    size = x.shape[dim]
    before = torch.cat([x.narrow(dim, 0, 1), x.narrow(dim, 0, size - 1)], dim)
    after = torch.cat([x.narrow(dim, 1, size - 1), x.narrow(dim, size - 1, 1)], dim)
    # Compiled code computes these numbers from the index, so nothing is copied to the device.
    share = torch.arange(size, device=x.device) / (2 * size - 1)
    share = share if dim == 3 else share[:, None]
    even, odd = x + share * (before - x), x + share.flip(0) * (after - x)
    return torch.stack([even, odd], dim + 1).flatten(dim, dim + 1).to(x.dtype)


def halve(x):
    """Max pooling 2x2 of [B,C,H,W]; the last row or column of an odd size is dropped."""
    if on_cpu(x):
        return F.max_pool2d(x, 2)
    height, width = (side // 2 * 2 for side in x.shape[2:])
    x = torch.maximum(x[:, :, 0:height:2], x[:, :, 1:height:2])
    return torch.maximum(x[..., 0:width:2], x[..., 1:width:2])


class EdgeConvolution(nn.Conv2d):
    """A 5x5 convolution that repeats the edges of its input.

    Its bias gets no gradient: it would be exactly zero, because batch norm follows.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 5)
        self.bias.requires_grad_(False)

    def forward(self, x):
        return F.conv2d(repeat_edges(x, 2), self.weight, self.bias)


class Gather(torch.autograd.Function):
    """x [B,C,H,W] -> vectors at S positions of each image [B,S,C], mean and variance of channels.

    The backward pass writes x's gradient in one pass, then adds those of the vectors in place.
    PyTorch's own gradients of torch.var_mean and of indexing fill several arrays as large as x.
    """

    @staticmethod
    def forward(ctx, x, examples, rows, columns):
        if on_cpu(x):  # the first half of PyTorch's batch norm; torch.var_mean is not vectorised
            mean, var = torch.batch_norm_update_stats(x, None, None, 0.0)
        else:
            wide = x.to(torch.promote_types(x.dtype, torch.float32))
            var, mean = torch.var_mean(wide, (0, 2, 3), correction=0)
        ctx.save_for_backward(x, examples, rows, columns, mean)
        return x.permute(0, 2, 3, 1)[examples, rows, columns], mean, var

    @staticmethod
    def backward(ctx, d_vectors, d_mean, d_var):
        x, *positions, mean = ctx.saved_tensors
        count = x.numel() // x.shape[1]
        factor = d_var * (2 / count)
        offset = d_mean / count - factor * mean
        d_x = torch.addcmul(offset[:, None, None], x, factor[:, None, None]).to(x.dtype)
        d_x.permute(0, 2, 3, 1).index_put_(positions, d_vectors, accumulate=True)
        return d_x, None, None, None


class Encoder(nn.Sequential):
    """The CUTS encoder in training: [B,C,H,W] -> latents [B,S,128] at S positions of each image.

    As in thermo_jax, the last batch norm computes its statistics over all positions, but normalises
    only the vectors that are returned.
    """

    def forward(self, x, examples, rows, columns):
        *layers, norm, activation = self
        for layer in layers:
            x = layer(x)
        vectors, mean, var = Gather.apply(x, examples, rows, columns)
        with torch.no_grad():
            count = x.numel() // x.shape[1]
            norm.num_batches_tracked.add_(1)
            norm.running_mean.lerp_(mean, norm.momentum)
            norm.running_var.lerp_(var * (count / (count - 1)), norm.momentum)
        scale = norm.weight * (var + norm.eps).rsqrt()
        return activation((vectors - mean) * scale + norm.bias)


def encoder(channels: int, kernels: int = 16) -> Encoder:
    """Returns an encoder: four convolutions at full resolution."""
    layers, width = [], channels
    for out in (kernels, 2 * kernels, 4 * kernels, 8 * kernels):
        layers += [EdgeConvolution(width, out), nn.BatchNorm2d(out)]
        layers += [nn.LeakyReLU(0.01, inplace=True)]
        width = out
    return Encoder(*layers)


def double_convolution(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """A stage of the U-Net."""
    layers = []
    for a, b in ((inputs, hidden), (hidden, outputs)):
        layers += [nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b)]
        layers += [nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Latents [B,128,H,W] -> logits [B,8,H,W]."""

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
            x = stage(halve(x))
        for stage in self.up:
            skip = skips.pop()
            x = upsample(x)
            rows, columns = (a - b for a, b in zip(skip.shape[2:], x.shape[2:], strict=True))
            if rows or columns:
                x = F.pad(x, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
            x = stage(torch.cat([skip, x], 1))
        return self.end(x)


def similarity(a, b):
    """SSIM of patches [...,C,P,P] as one window, mean over channels."""
    c1, c2 = 0.02**2, 0.06**2
    mean_a, mean_b = a.mean((-2, -1)), b.mean((-2, -1))
    var_a, var_b = a.var((-2, -1)), b.var((-2, -1))
    product = (a - mean_a[..., None, None]) * (b - mean_b[..., None, None])
    covariance = product.sum((-2, -1)) / (PATCH * PATCH - 1)
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    return (luminance * (2 * covariance + c2) / (var_a + var_b + c2)).mean(-1)


def contrastive_loss(anchors, positives, same):
    """The paper's loss of two arrays [B,S,L], mean over images; `same` is the identity [S,S]."""
    a, q = F.normalize(anchors, dim=-1), F.normalize(positives, dim=-1)
    exps = (a @ q.transpose(1, 2) / 0.5).exp()
    ratio = exps.masked_fill(~same, 0).sum((1, 2)) / (exps.masked_fill(same, 0).sum((1, 2)) + 1e-7)
    return -(ratio + 1e-7).log().mean()


def soft_labels(label_maps, classes, height: int):
    """Label maps uint8 [B,480,640], `classes` [K,1,1] -> shares of the classes [B,K,H,W].

    One pixel of each block is added at a time, so that no one-hot map of full size is written.
    """
    factor = label_maps.shape[1] // height
    blocks = label_maps.unflatten(2, (-1, factor)).unflatten(1, (-1, factor))[:, None]
    pixels = [(row, column) for row in range(factor) for column in range(factor)]
    # uint8 is faster on the CPU, but do not compile it there: in a step compiled by PyTorch 2.13
    # the sums were wrong (a loss of 302 instead of 2.69).
    dtype = torch.uint8 if on_cpu(label_maps) else torch.float32
    return sum((blocks[:, :, :, r, :, c] == classes).to(dtype) for r, c in pixels) / factor**2


class Pretraining(nn.Module):
    """Row numbers of the table of images -> losses."""

    mflop = 1.62  # per pixel of a training step

    def __init__(self, channels: int, batch: int, height: int, width: int):
        super().__init__()
        table = torch.randint(0, 256, (2 * batch, channels, height, width), dtype=torch.uint8)
        self.register_buffer("images", table)
        self.register_buffer("size", torch.tensor([height, width]))
        self.register_buffer("examples", torch.arange(batch)[:, None])
        self.register_buffer("offsets", torch.arange(PATCH) - PATCH // 2)
        self.register_buffer("same", torch.eye(PATCHES, dtype=torch.bool))
        self.encoder = encoder(channels)
        self.reconstruction = nn.Linear(128, PATCH * PATCH * channels)

    def optimizer(self, **options) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=1e-4, **options)

    def forward(self, rows):
        images = self.images.index_select(0, rows).float() / 127.5 - 1
        with torch.no_grad():
            anchors_hw, positives_hw = self.sample(images)
        positions = torch.cat([anchors_hw, positives_hw], 1)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=images.is_cuda):
            latents = self.encoder(images, self.examples, positions[..., 0], positions[..., 1])
        anchors, positives = latents.float().chunk(2, 1)
        contrastive = contrastive_loss(anchors, positives, self.same)
        patches = self.patches_at(images, anchors_hw)
        rebuilt = self.reconstruction(anchors).unflatten(-1, patches.shape[2:])
        reconstruction = F.mse_loss(rebuilt, patches)
        return {
            "loss": 0.01 * contrastive + 0.99 * reconstruction,
            "contrastive": contrastive.detach(),
            "reconstruction": reconstruction.detach(),
        }

    def sample(self, images):
        """Draws the positions (row, column) of anchors and positives, each [B,S,2]."""
        count, margin = len(images), PATCH // 2
        high = self.size - margin
        draw = torch.rand(count, PATCHES, 2, device=images.device)
        anchors = margin + (draw * (high - margin)).long()
        low = (anchors - REACH).clamp(min=margin)[:, :, None]
        top = torch.minimum(anchors + REACH + 1, high)[:, :, None]
        draw = torch.rand(count, PATCHES, CANDIDATES, 2, device=images.device)
        candidates = low + (draw * (top - low)).long()
        patches = self.patches_at(images, candidates.flatten(1, 2))
        patches = patches.unflatten(1, (PATCHES, CANDIDATES))
        scores = similarity(self.patches_at(images, anchors)[:, :, None], patches)
        scores = scores.masked_fill((candidates == anchors[:, :, None]).all(-1), -torch.inf)
        best, index = scores.max(-1)
        chosen = candidates.gather(2, index[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
        toward = anchors + torch.where(2 * anchors < self.size - 1, 1, -1)
        return anchors, torch.where(best[..., None] > 0.5, chosen, toward)

    def patches_at(self, images, centers):
        """Gathers the patches [B,S,C,P,P] around the positions `centers` [B,S,2]."""
        rows = centers[..., 0, None, None] + self.offsets[:, None]
        columns = centers[..., 1, None, None] + self.offsets
        patches = images.permute(0, 2, 3, 1)[self.examples[..., None, None], rows, columns]
        return patches.permute(0, 1, 4, 2, 3)


class Segmentation(nn.Module):
    """Row numbers of the tables of latents and label maps -> loss and pixel accuracy."""

    mflop = 4.1

    def __init__(self, batch: int, height: int, width: int, label_shape: tuple[int, int], dtype):
        super().__init__()
        self.register_buffer("latents", torch.randn(2 * batch, 128, height, width, dtype=dtype))
        maps = torch.randint(0, 8, (2 * batch, *label_shape), dtype=torch.uint8)
        self.register_buffer("label_maps", maps)
        self.register_buffer("classes", torch.arange(8, dtype=torch.uint8)[:, None, None])
        self.register_buffer("weights", torch.tensor([1.0, 1, 2, 2, 1, 1, 1, 1])[:, None, None])
        self.unet = UNet()

    def optimizer(self, **options) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=5e-3, **options)

    def forward(self, rows):
        latents, maps = (table.index_select(0, rows) for table in (self.latents, self.label_maps))
        with torch.autocast(latents.device.type, torch.bfloat16, enabled=latents.is_cuda):
            logits = self.unet(latents)
        logits = logits.float()
        targets = soft_labels(maps, self.classes, logits.shape[2])
        loss = -(self.weights * targets * logits.log_softmax(1)).sum(1).mean()
        return {"loss": loss, "accuracy": (logits.argmax(1) == targets.argmax(1)).float().mean()}
