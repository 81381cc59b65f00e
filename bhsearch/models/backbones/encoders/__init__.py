"""Published vision transformers in folders with `config.json` and `model.safetensors`, as Keras networks."""
