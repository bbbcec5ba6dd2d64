"""Calibration against its formulas, written out."""

import numpy as np

from pipeline.prompting.calibration import contextual_prior, log_probabilities


def test_contextual_calibration_divides_by_the_mean_of_inputs_without_content() -> None:
    generator = np.random.default_rng(0)
    scores, free = generator.normal(size=(4, 3)).astype(np.float32), generator.normal(size=(4, 2, 3)).astype(np.float32)
    found = log_probabilities(scores, contextual_prior(free))
    for row in range(4):
        p = np.exp(scores[row]) / np.exp(scores[row]).sum()
        each = [np.exp(one) / np.exp(one).sum() for one in free[row]]
        weighted = np.diag(1 / np.mean(each, axis=0)) @ p  # Zhao et al. 2021: W = diag(p_cf)^-1, b = 0
        np.testing.assert_allclose(np.exp(found[row]), weighted / weighted.sum(), rtol=1e-5)


def test_pmi_takes_the_label_without_the_text_away() -> None:
    scores, alone = np.array([[-3.0, -5.0]], dtype=np.float32), np.array([[-1.0, -6.0]], dtype=np.float32)
    found = np.exp(log_probabilities(scores, alone))
    ratios = np.exp([-3.0 + 1.0, -5.0 + 6.0])  # p(label | text) / p(label)
    np.testing.assert_allclose(found, [ratios / ratios.sum()], rtol=1e-5)
    assert found.argmax() == 1  # the likelier label is not the one that the text makes likelier


def test_without_a_prior_the_scores_are_scaled_to_a_sum_of_1() -> None:
    np.testing.assert_allclose(np.exp(log_probabilities(np.log([[0.1, 0.3]]))), [[0.25, 0.75]], rtol=1e-12)
