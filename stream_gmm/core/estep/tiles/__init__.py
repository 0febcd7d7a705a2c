"""Matrix products in tiles: small blocks of the result stay in vector registers until they are complete.

May import: nothing of the E-step. Begin with ``products.py``.

The products of the feature kernels are small and follow each other closely. A library of linear algebra copies its
operands before it multiplies, and may not know the processor; these tiles run at its peak, on operands that are in
the cache, and take any choice of the rows of a matrix.

- ``products.py``: products of chosen rows of a matrix with a group of rows, and sums over rows
- ``vectors.py``: the tiles themselves, as instructions of LLVM
"""
