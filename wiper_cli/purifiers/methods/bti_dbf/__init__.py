from dataclasses import dataclass

from wiper_cli.purifiers.options import BODY, Augmented, option


@dataclass(frozen=True)
class BTIDBF(Augmented):
    """BTI-DBF(U): decouple benign features, invert the rest into images, unlearn these."""

    name = "bti-dbf"
    title = "BTI-DBF(U): unlearning of what a generator makes of features that are not benign"
    presets = {
        "paper": {"rounds": 5, "epochs": 30, "generator_epochs": 30, "batch": 128, "image_bound": 0.012}
    }
    quick = {"rounds": 1, "epochs": 1, "generator_epochs": 1, "mask_epochs": 2, "generator_width": 4}
    needs = BODY | {"head"}

    rounds: int = option(2, "Times that mask and generator are found anew and unlearned.", 1)
    epochs: int = option(4, "Passes over the clean images that unlearn, a round.", 1)
    batch: int = option(64, "Images per step.", 1)
    lr: float = option(1e-4, "Learning rate of Adam while unlearning.", 0)
    mask_epochs: int = option(20, "Passes over the cached features that find the mask.", 1)
    mask_lr: float = option(0.01, "Learning rate of Adam on the mask.", 0)
    generator_epochs: int = option(12, "Passes over the clean images that train the generator, a round.", 1)
    generator_lr: float = option(1e-3, "Learning rate of Adam on the generator.", 0)
    generator_width: int = option(8, "Channels of the generator's first level.", 1)
    image_bound: float = option(
        0.02, "Mean square change of pixels in 0..1 up to which the generator is left free.", 0, 1
    )
    stamped: float = option(0.1, "Share of a batch that the generator changes while it is unlearned.", 0, 1)
