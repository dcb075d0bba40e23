"""The training loop and what assembles it. Importing this package does not import torch."""
