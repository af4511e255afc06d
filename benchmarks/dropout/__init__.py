"""How fast a failing sensor is noticed, and how often a good one is accused."""
