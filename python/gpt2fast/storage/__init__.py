"""Files that may come from strangers, atomic writes and the model directory."""
