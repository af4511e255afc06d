"""Sessions: recordings of a rig with their labels; read, written, divided into splits and cut into windows."""
