"""The same numbers in another order in memory, so that a processor reads them faster.

A token of one sequence needs a product of every matrix with one vector, which takes as long as reading the matrix. Two
things slow that down: every row of a matrix has to be found anew, which costs as much as reading hundreds of numbers,
and so has every matrix. Short rows and small matrices are read at a fraction of the speed of long and large ones.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from archlab.layers.shared_input import SharedInput


def lay_out(model: nn.Module) -> None:
    """Store a model's matrices as decoding reads them fastest; names, shapes and values stay.

    Layers that read the same input get one matrix (`SharedInput.join`), and matrices whose columns are no shorter than
    their rows are stored column by column, the token table too where it is the output layer. A model that is moved or
    cast afterwards keeps working and loses the first of the two.

    Args:
        model: a decoder or an encoder-decoder with float32 parameters; products of other types read in other ways, and
            layers that were quantised stay as they are.
    """
    done: set[nn.Module] = set()
    for layer in model.modules():
        if isinstance(layer, SharedInput) and all(isinstance(part, nn.Linear) for part in layer.projections()):
            layer.join()
            done.update(layer.projections())
    matrices: list[Any] = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer not in done]
    if getattr(model, "head", None) is None:
        matrices.append(model.token_embedding)
    for matrix in matrices:
        rows, columns = matrix.weight.shape
        if rows >= columns:
            matrix.weight.data = matrix.weight.data.T.contiguous().T
