"""What makes a model of `transformers` one that zerokit trains: built without values, its weights read by parts."""
