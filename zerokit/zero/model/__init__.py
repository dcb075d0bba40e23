"""What lies on a model: units, views, hooks and the backward passes that they follow."""
