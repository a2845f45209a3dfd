//! A stand-in for the CUDA driver: runs the kernels of `dsr` on the host, so that tests need no GPU.
