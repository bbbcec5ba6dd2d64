"""Operations in C++ for training that is compiled for a CPU with AMX instructions.

They are compiled when a training first needs them, by the compiler that Inductor uses; it keeps what it compiled.
"""
