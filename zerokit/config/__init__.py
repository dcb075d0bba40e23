"""The typed configuration: registry of components, schema, composition by Hydra, checks. Imports no torch."""
