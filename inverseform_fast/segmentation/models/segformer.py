"""SegFormer (Xie et al., 2021), made of the modules of Hugging Face transformers."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from ..tasks import Task
from .base import SegmentationModel
from .heads import Heads

_SMALL, _LARGE = (32, 64, 160, 256), (64, 128, 320, 512)
# Per backbone: channels and number of blocks of the four levels, and the width of the head.
_BACKBONES = {
    "mit_b0": (_SMALL, (2, 2, 2, 2), 256),
    "mit_b1": (_LARGE, (2, 2, 2, 2), 256),
    "mit_b2": (_LARGE, (3, 4, 6, 3), 768),
    "mit_b3": (_LARGE, (3, 4, 18, 3), 768),
    "mit_b4": (_LARGE, (3, 8, 27, 3), 768),
    "mit_b5": (_LARGE, (3, 6, 40, 3), 768),
}
_MIN_SIZE = 32  # pixels; attention has its keys at stride 32, so a smaller image would have none


class SegFormer(SegmentationModel):
    """Puts the all-MLP head on a Mix Transformer, "mit_b0" to "mit_b5".

    See :func:`~inverseform_fast.segmentation.models.build_model` for arguments, result and errors.
    """

    def __init__(
        self, backbone: str, tasks: Mapping[str, Task], *, boundary_head: bool = True, pretrained: bool = False
    ) -> None:
        super().__init__()
        if backbone not in _BACKBONES:
            raise ValueError(f"backbone must be one of {sorted(_BACKBONES)}, got {backbone!r}")
        # transformers is imported here, so that the other models neither need it nor wait for it.
        from transformers import SegformerConfig, SegformerDecodeHead, SegformerModel

        channels, depths, width = _BACKBONES[backbone]
        config = SegformerConfig(hidden_sizes=channels, depths=depths, decoder_hidden_size=width)
        if pretrained:
            # from_pretrained returns the encoder in evaluation mode.
            self.encoder = SegformerModel.from_pretrained(f"nvidia/{backbone.replace('_', '-')}").train()
        else:
            self.encoder = SegformerModel(config)
        self.fuse = SegformerDecodeHead(config)
        self.fuse.classifier = nn.Identity()  # type: ignore[assignment]
        self.heads = Heads(width, tasks, boundary_head)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        image = inputs["image"]
        height, width = image.shape[-2:]
        padded = F.pad(image, (0, max(_MIN_SIZE - width, 0), 0, max(_MIN_SIZE - height, 0)))
        return self.heads(self.fuse(self.encoder(padded, output_hidden_states=True).hidden_states), image)
