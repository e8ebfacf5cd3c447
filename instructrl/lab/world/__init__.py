"""The simulated world: facts, language and the texts that state them."""
