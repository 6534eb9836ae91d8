"""The routes: from the wire to the codec and the engine, and back."""
