"""The figures by which versions of a model are compared and have floors: their keys, and what they are called."""

OF_1 = {  # from 0 to 1
    "accuracy": "accuracy",
    "macro_f1": "macro-F1",
    "micro_f1": "span F1",
    "f1": "answer F1",
    "character_f1": "answer F1 over characters",
    "exact_match": "exact match",
    "exact_answers": "exact answers",
    "answered": "answered",
}
OF_100 = {"chrf": "chrF", "bleu": "BLEU", "rouge_1": "ROUGE-1", "rouge_2": "ROUGE-2", "rouge_l": "ROUGE-L"}
NAMES = OF_1 | OF_100


def highest(figure: str) -> float:
    """The best that a model can reach."""
    return 100.0 if figure in OF_100 else 1.0
