"""How much one node carries: message rates, CPU per message, rigs on a core."""
