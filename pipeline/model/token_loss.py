"""The loss of predicted tokens as one module, so that a runtime can compile it in place as it compiles blocks.

Legend: B rows, T positions, D hidden size, N = B x T targets, V vocabulary.
"""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from pipeline.model.norms import widen
from pipeline.model.transformer import LanguageHead


class TokenLoss(nn.Module):
    """The cross-entropy of each label under a head that belongs to another module; it has no parameters.

    Args:
        no_target: a label that counts nowhere.
        label_smoothing: probability that is moved from each label to all tokens alike (Szegedy et al. 2016,
            arXiv:1512.00567), in training alone.
    """

    def __init__(self, no_target: int, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.no_target, self.label_smoothing = no_target, label_smoothing

    def forward(self, head: LanguageHead, x_BTD: Tensor, labels_BT: Tensor) -> Tensor:
        """nats_N, float32; 0 where the label is `no_target`."""
        smoothing = self.label_smoothing if self.training else 0.0
        logits_NV, labels_N = widen(head(x_BTD)).flatten(0, -2), labels_BT.flatten()
        return cross_entropy(
            logits_NV, labels_N, ignore_index=self.no_target, reduction="none", label_smoothing=smoothing
        )
