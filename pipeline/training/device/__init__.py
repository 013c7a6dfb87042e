"""What depends on the device: copies to it, compiling for it, repeatable kernels on it."""
