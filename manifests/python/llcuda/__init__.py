"""llama.cpp on the NVIDIA GPU that is there."""
