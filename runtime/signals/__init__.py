"""What signals are: recorded, synthetic, played back, spoilt on purpose. Live ones: ``runtime.sensors``."""
