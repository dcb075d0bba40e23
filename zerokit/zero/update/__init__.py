"""The update of what a rank owns: states, phases, norms and the kernel that writes."""
