"""Methods that compare relations: between cells, a cell and its class, classes, or groups of channels."""
