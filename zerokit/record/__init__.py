"""What a run leaves behind: its metrics, its summary, and what a person sees of them. Imports no torch."""
