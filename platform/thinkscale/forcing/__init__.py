"""How a model thinks: formats, forced budgets and sweeps as programs in token ids, and what runs them."""
