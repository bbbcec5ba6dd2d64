"""What a prompt says of the labels before it has seen a text, and scores without that.

Legend: N prompts, F inputs without content, C labels.
"""

import numpy as np
from scipy.special import log_softmax, logsumexp

# Zhao et al. 2021, arXiv:2102.09690, section 5.
WITHOUT_CONTENT = ("N/A", "[MASK]", "")


def contextual_prior(scores_NFC: np.ndarray) -> np.ndarray:
    """Contextual calibration (Zhao et al. 2021): the log of the labels' mean probabilities over F, float64 (N, C).

    Args:
        scores_NFC: log-likelihoods of the label words where inputs without content stand in place of the text.
    """
    nats_NFC = log_softmax(scores_NFC.astype(np.float64), axis=-1)
    return logsumexp(nats_NFC, axis=1) - np.log(scores_NFC.shape[1])


def log_probabilities(scores_NC: np.ndarray, prior_NC: np.ndarray | float = 0.0) -> np.ndarray:
    """The labels' log-probabilities among one another, float64 (N, C).

    Args:
        scores_NC: log-likelihoods of the label words.
        prior_NC: what is taken from them. `contextual_prior`: Zhao's W p with W = diag(p_cf)^-1 and b = 0, scaled to a
            sum of 1. Log-likelihoods behind the template alone: PMI for the domain (Holtzman et al. 2021,
            arXiv:2104.08315, equation 2).
    """
    return log_softmax(scores_NC.astype(np.float64) - prior_NC, axis=-1)
