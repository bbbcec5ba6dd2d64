"""Scripts that put no spaces between words, as the inside of a character class of regular expressions; and words."""

import re

KANA_AND_HAN = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f"
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff" + KANA_AND_HAN  # Thai, Lao, Burmese and Khmer, too

# Words as runs of letters and digits, single characters of scripts without spaces, and single signs.
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")
