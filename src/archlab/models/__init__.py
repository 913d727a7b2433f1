"""Models, one thin file each: config, block, model, from the parts in `archlab.layers`."""
