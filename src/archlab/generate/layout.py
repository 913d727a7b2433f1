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

    Layers that read the same input get one matrix (`SharedInput.join`), and matrices with more rows than columns are
    stored column by column, the token table too where it is the output layer. A model that is moved or cast afterwards
    keeps working and loses the first of the two.

    Args:
        model: a decoder or an encoder-decoder with float32 parameters; products of other types read in other ways.
    """
    joined = [layer for layer in model.modules() if isinstance(layer, SharedInput)]
    for shared in joined:
        shared.join()
    done = {projection for shared in joined for projection in shared.projections()}
    matrices: list[Any] = [layer for layer in model.modules() if isinstance(layer, nn.Linear) and layer not in done]
    if getattr(model, "head", None) is None:
        matrices.append(model.token_embedding)
    for layer in matrices:
        rows, columns = layer.weight.shape
        if rows > columns:
            layer.weight.data = layer.weight.data.T.contiguous().T
