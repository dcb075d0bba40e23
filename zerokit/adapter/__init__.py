"""Adapters: small trained parts in a model that stays as it is."""
