"""How long a frame takes from its sensor to the decision in a client, beside the least that it could take."""
