"""One run over many devices and hosts: the mesh, where arrays lie, attention kernels, processes and signals."""
