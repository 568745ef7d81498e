"""Fields that configurations share, and the parser of presets. rules.py checks the values."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType

from ml_collections import ConfigDict

from thermo_jax.errors import UserError, did_you_mean

ENCODER_VAL_FRACTION = 0.3
ROWS = ("G/G", "G/H", "H/G", "H/H")  # of Table 1: encoder / decoder, in its order
ROW_TYPES = {"G": "gray", "H": "heat"}


def base(task: str, *, data_type: str) -> ConfigDict:
    """Fields of every program that runs a model on the images of a data set."""
    config = ConfigDict()
    # The program, set by the configuration file.
    config.task = task
    # Seed of initial weights, patch positions and the order of images.
    config.seed = 0
    config.data = data(data_type)
    config.flir = flir()
    config.split = split()
    config.parallel = parallel()
    config.model = ConfigDict()
    # Type in which layers are computed: "float32", "tensorfloat32" (float32 arrays, but an
    # accelerator rounds numbers before it multiplies them: models/precision.py), "bfloat16", or
    # "auto" (bfloat16, but float32 on CPUs and on NVIDIA's GPUs before Ampere). Parameters,
    # statistics, losses, the patch sampler and k-means always use float32.
    config.model.dtype = "auto"
    # How layers are computed: "native" (with XLA's own operations), "cpu", "gpu", or "auto" (the
    # one for this platform, see models/operations.py). Results differ by rounding only.
    config.model.conv = "auto"
    return config


def data(data_type: str) -> ConfigDict:
    """Where thermograms come from, and which of them a run uses."""
    config = ConfigDict()
    # Folder of thermograms: DMR-IR or any other; or "phantom" for synthetic data.
    config.root = ""
    # "auto" recognises the folder's layout. "site" and "matrices" (DMR-IR's own), "class_folders",
    # "folder" (files of any camera) and "table" (files that thermograms.csv lists) force one.
    config.layout = "auto"
    # True: the first unusable file stops the run; False: it is skipped, counted and reported.
    config.strict = False
    # Data type of this run's images: "gray" (480x640x1) or "heat" (120x160x3).
    config.type = data_type
    # Views to use: 1 frontal, 2 right 45, 3 right 90, 4 left 45, 5 left 90.
    config.views = (1,)
    # Acquisition protocols to use: "S" static, "D" dynamic.
    config.protocols = ("S", "D")
    # "first": the first frame of each visit and protocol; "all": every frame (near-copies).
    config.frames = "first"
    # Whether to use mirrored copies (file names with a leading R).
    config.mirrored = False
    # Makes images smaller by this factor (block mean); results are then not the paper's.
    config.downscale = 1
    # matplotlib colour map of heatmaps that are rendered from temperatures or gray images.
    config.colormap = "jet"
    # "any" renders heatmaps from gray images also in copies of DMR-IR; with "auto" these need _snap
    # images or temperatures, as in the paper.
    config.render = "auto"
    # Unit of temperatures: "celsius", "fahrenheit", "kelvin", "centikelvin" (kelvin x 100), or
    # "auto", which recognises it by each image's median.
    config.unit = "auto"
    # "tf.data" prepares the data once; "numpy" needs no TensorFlow, and prepares only data that are
    # streamed. Both give the same examples. "auto" is tf.data if TensorFlow is installed.
    config.loader = "auto"
    # Images and label maps of a task are kept in memory if they need at most this many GB. If not,
    # they are streamed, that is, read from prepared data for each batch. -1 = half of the machine's
    # memory, or of a container's or a Slurm job's limit, shared by the Slurm tasks of a machine.
    config.memory_gb = -1.0
    # True: images and label maps are streamed in any case. The batches are the same.
    config.streamed = False
    # Folder of prepared (TFDS) data; "" = ~/.cache/thermo_jax, or $THERMO_JAX_CACHE_DIR.
    config.prepared_dir = ""
    # A control experiment: True permutes the patients' diagnoses at random, so that nothing can be
    # learned. The results show how far from 0.5 an AUROC can be by chance. config.seed determines
    # the permutation: an encoder and its decoders must have the same one.
    config.shuffle_labels = False
    # root="phantom" only: number of synthetic patients, half of them sick.
    config.phantom_patients = 40
    # root="phantom" only: 1, or 2, whose bodies and drawn regions resemble real ones more.
    config.phantom_version = 1
    # True renders new training images on the device in each step, instead of reading those of the
    # training patients. Only for segmenters of gray images with root="phantom", phantom_version=2.
    config.endless = False
    return config


def flir() -> ConfigDict:
    """How FLIR radiometric JPEGs are read."""
    config = ConfigDict()
    # Emissivity of the skin (.98) instead of the one that the camera recorded; 0 = as recorded.
    config.emissivity = 0.0
    return config


def split() -> ConfigDict:
    """Which patients are for training, validation and testing.

    Runs with equal fields have the same test patients.
    """
    config = ConfigDict()
    # Patients are divided into this many folds, stratified by diagnosis and annotation.
    config.folds = 5
    # The fold that is the test set.
    config.fold = 0
    # Share of validation patients among those who are not test patients; the epoch and the
    # threshold are chosen on them. The default is 0.2 for decoders and 0.3 for encoders, which is
    # the paper's 70:30. 0: all who are not test patients train, and the last epoch is the result.
    config.val_fraction = 0.2
    # Seed of the split.
    config.seed = 0
    # Path of a split.json, which every run writes to its workdir; its sets of patients are used
    # instead of a new division. "" = none.
    config.file = ""
    # "honest": validation patients choose the epoch, the encoder sees no test patient.
    # "transductive": the encoder sees test patients, too, without labels.
    # "paper": the published protocol, optimistic: the encoder sees every image, and the test set
    # chooses the epoch.
    config.protocol = "honest"
    # The number of patients on whom a decoder is trained, 0 = all. The run's config.seed chooses
    # them at random; a larger number includes the patients of a smaller one.
    config.max_train_patients = 0
    return config


def apply_models(config: ConfigDict) -> None:
    """Adds the fields of programs that apply trained decoders."""
    # Workdirs of trained decoders, separated by commas; a folder that contains several (such as a
    # table1 run) stands for all of them. Several decoders of one task form an ensemble, whose
    # probabilities are averaged. A .safetensors file of configs/export.py is a model, too.
    # "shipped" is the segmenter that comes with thermo_jax, which is also used if this is "".
    config.models = ""
    config.model = ConfigDict()
    # Type in which layers are computed: "float32", "tensorfloat32", "bfloat16", or "auto", which is
    # bfloat16, but float32 on CPUs and on NVIDIA's GPUs before Ampere.
    config.model.dtype = "auto"


def report() -> ConfigDict:
    """How results are summarised."""
    config = ConfigDict()
    # How often patients are resampled for the 95 % intervals.
    config.bootstrap = 1000
    # Seed of the resampling.
    config.seed = 0
    return config


def stages(config: ConfigDict, **parts: ConfigDict) -> None:
    """Adds `config.stages`: runs whose common fields are set once for all of them."""
    config.data = data("heat")
    config.flir = flir()
    config.split = split()
    # Used for encoders instead of split.val_fraction. The validation patients of an encoder are
    # those of its decoders and some of the decoders' training patients.
    config.encoder_val_fraction = ENCODER_VAL_FRACTION
    config.parallel = parallel()
    config.report = report()
    # Images are made smaller by this factor; results are then not the paper's.
    config.downscale = ConfigDict({"gray": 1, "heat": 1})
    # Images in a batch, over all devices, by the data type of the images.
    config.batch_size = ConfigDict({"gray": 16, "heat": 16})
    config.stages = ConfigDict()
    for name, part in parts.items():
        with part.unlocked():
            for field in ("data", "flir", "split", "parallel", "report", "seed"):
                if field in part:
                    del part[field]
            del part.train.batch_size
            if "encoder" in part:
                del part.encoder.type, part.encoder.workdir
        config.stages[name] = part
    # `programs/stages.stage_config` sets these for each stage.
    del config.data.type, config.data.downscale
    del config.split.fold, config.split.file, config.split.max_train_patients


def parallel() -> ConfigDict:
    """How a step is spread over devices."""
    config = ConfigDict()
    # "pmap" or "shard_map": which function of JAX runs a step on all devices; the result is equal.
    config.mode = "pmap"
    # Number of devices to use, 0 = all.
    config.devices = 0
    # Images, or a frozen encoder's latents, are kept on every device if they need at most this many
    # GB; else images are streamed and encoded in every step. -1 = 35 % of the device's memory.
    config.resident_gb = -1.0
    # Largest number of training steps in one dispatch to the devices, if images are kept there;
    # 0 = automatic (1 on the CPU, 50 elsewhere). With more than 1, a whole evaluation is one
    # dispatch, too. Metrics are read, and a signal to stop is obeyed, between dispatches.
    config.steps_per_dispatch = 0
    return config


def augment() -> ConfigDict:
    """How training images are changed at random in each step; 0 or False is off (published).

    "Up to" a number means that each image gets its own, uniform from minus this number to it.
    """
    config = ConfigDict()
    # Whether half of the images are mirrored; labels of the left and the right side are exchanged.
    config.mirror = False
    # Images are turned by up to this angle, degrees.
    config.rotation = 0.0
    # Images are magnified; the logarithm of the factor is up to this: 0.1 is from 90 % to 111 %.
    config.scale = 0.0
    # What was a square becomes a rectangle; the logarithm of its height / width is up to this.
    config.stretch = 0.0
    # Images are moved up or down, left or right, by up to this share of their height.
    config.shift = 0.0
    # Standard deviation of a smooth displacement of the pixels, as a share of the height.
    config.elastic = 0.0
    # Levels, as numbers from 0 to 1, are raised to a power, whose logarithm is up to this.
    config.gamma = 0.0
    # Standard deviation of a smooth field that is added, as a share of the 255 levels.
    config.field = 0.0
    # Standard deviation of the noise of each pixel, as a share of the 255 levels.
    config.noise = 0.0
    # Each image has a Gaussian blur with a standard deviation from 0 to this, pixels.
    config.blur = 0.0
    # Largest number of small rectangles of one level that cover parts of an image. Each of them is
    # there in half of the images.
    config.rectangles = 0
    return config


def train(*, batch_size: int, epochs: int, patience: int, learning_rate: float) -> ConfigDict:
    """How long and how fast to train."""
    config = ConfigDict()
    # Images in a batch, over all devices.
    config.batch_size = batch_size
    # Largest number of epochs. An epoch has max(ceil(images / batch_size), 5) full batches.
    config.epochs = epochs
    # Number of steps (updates), rounded up to whole epochs, instead of `epochs`; 0 = use `epochs`.
    config.steps = 0
    # Stop after this many epochs without a better validation loss, 0 = never.
    config.patience = patience
    # Step size of the optimiser, at its highest.
    config.learning_rate = learning_rate
    # Decoupled weight decay on all parameters (AdamW); 0 = Adam.
    config.weight_decay = 0.0
    # Share of the steps, at the start, in which the learning rate grows linearly.
    config.warmup = 0.0
    # The learning rate after that: "constant", or "cosine", which falls to 0.
    config.schedule = "constant"
    # Evaluation and prediction use an exponential moving average of parameters and batch statistics
    # with this decay, such as 0.99; 0 = none.
    config.ema = 0.0
    # Minutes between checkpoints, 0 = one after every epoch. Another one is saved when training
    # ends or gets SIGTERM. A run that is killed continues from its last checkpoint.
    config.checkpoint_minutes = 1.0
    return config


def decoder(task: str, *, preset: str) -> ConfigDict:
    """Fields of a decoder run; `preset` is one of Table 1's rows, such as "G/H"."""
    encoder_type, data_type = (ROW_TYPES[letter] for letter in preset.split("/"))
    config = base(task, data_type=data_type)
    config.report = report()
    config.encoder = ConfigDict()
    # Workdir of the pretrained encoder (a run of configs/encoder.py).
    config.encoder.workdir = ""
    # Data type the encoder was trained on: "gray" or "heat".
    config.encoder.type = encoder_type
    # "pretrained"; or, for comparison, "random" (frozen initial weights) or "none" (raw pixels).
    config.encoder.kind = "pretrained"
    # Channels of the first block, for kind "random"; a pretrained encoder's file specifies its own.
    config.encoder.num_kernels = 16
    # "unet", or a rival's network on raw pixels (encoder.kind="none"), for comparison. Classifiers:
    # "cnn", "soft_attention", "hard_attention" and "self_attention" (Alshehri 2022), "vgg", "vit"
    # (Mahoro 2024). Segmenters: "transformer_unet". `model.head` is only for "unet".
    config.model.architecture = "unet"
    # Channels of the U-Net's first stage; 64 is the published size. That of rivals' networks is 16.
    config.model.unet_width = 64
    # True: predictions are the mean over an image and its mirror image, mirrored back.
    config.model.mirror_average = False
    # Where training starts: "" (random weights), or the decoder of another run's workdir, of a
    # .safetensors file, or "shipped", the segmenter that comes with thermo_jax. Its encoder, data
    # type and unet_width must be those of this run. A classifier may start from a segmenter: its
    # last layers are then new.
    config.init_from = ""
    # True: the moving average of the weights (train.ema) keeps the share ema**steps of those at the
    # start, so that a run on few images does not forget what the first model knew.
    config.average_with_init = False
    return config


def phantom(config: ConfigDict) -> None:
    """Preset `phantom`: synthetic data instead of a folder."""
    config.data.root = "phantom"


def presets(
    build: Callable[..., ConfigDict],
    *,
    choices: Collection[str] = (),
    options: Mapping[str, Callable[[ConfigDict], None]] = MappingProxyType({}),
) -> Callable[[str], ConfigDict]:
    """Returns the function `get_config` of a configuration file.

    Args:
      build: makes the configuration. If there are choices, its argument is the chosen one, and the
        argument's default is the default choice.
      choices: presets of which at most one is allowed.
      options: presets that change the configuration; any number of them is allowed.
    """
    file = Path(build.__code__.co_filename).name
    known = [*choices, *options]

    def get_config(argument: str = "") -> ConfigDict:
        """A configuration from the presets after the colon in `--config=FILE:PRESET,PRESET,...`.

        Raises:
          UserError: an unknown preset, or two choices.
        """
        words = [word.strip() for word in (argument or "").split(",") if word.strip()]
        for word in words:
            if word not in known:
                raise UserError(
                    f"{file} has no preset {word!r}.{did_you_mean(word, known)} "
                    f"Presets: {', '.join(known) or 'none'}."
                )
        chosen = [word for word in words if word in choices]
        if len(chosen) > 1:
            raise UserError(f"{file}: choose one of {', '.join(choices)}, not {', '.join(chosen)}.")
        config = build(*chosen)
        for word in words:
            if word in options:
                options[word](config)
        return config.lock()

    return get_config
