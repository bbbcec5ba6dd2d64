"""The parts of a language model, and the families built from them."""

import os

# Before torch's first product: else MKL, which multiplies float32 matrices on a CPU, cuts long sums by the number of
# threads, and the gradient of a classifier's head has other bits on one core than on two. It costs no time.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
