"""Asking the pretrained model for labels in words: templates, demonstrations, scores, calibration, figures."""
