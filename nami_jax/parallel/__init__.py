"""One run over many devices and hosts: the mesh, where arrays are placed, attention kernels, processes and signals."""
