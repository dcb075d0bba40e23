"""Whole weights, single values, saved states: what others than a step read and write."""
