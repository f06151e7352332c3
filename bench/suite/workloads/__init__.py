"""The workloads, one module per area; registry.AREAS names them."""
